"""Drives as a control API describes them, in tables and lines for people."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ringblk.engine.base.number_text import duration_text, size_text
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.text_table import Column, table_lines

Drive = Mapping[str, Any]
"""What `GET /drives/{id}` gives."""


def list_lines(drives: Mapping[str, Drive], width: int | None) -> list[str]:
    """A line for each drive, below titles. No number is cut."""
    columns = [
        Column("drive"),
        Column("state"),
        Column("size", is_number=True),
        Column("up", is_number=True),
        Column("image", cut="head"),
    ]
    rows = [_row(name, drives[name]["state"]) for name in sorted(drives)]
    if any(row[-1] for row in rows):
        columns.append(Column("reason", cut="tail"))
    else:
        rows = [row[:-1] for row in rows]
    return table_lines(columns, rows, width)


def _row(name: str, state: Mapping[str, Any]) -> list[str]:
    size_bytes, uptime_s = state.get("size_bytes"), state.get("uptime_s")
    return [
        printable(name),
        state_text(state),
        "-" if size_bytes is None else size_text(size_bytes),
        "-" if uptime_s is None else duration_text(int(uptime_s * 1e9)),
        printable(state.get("storage", "")),
        printable(state.get("reason", "")),
    ]


def snapshot_lines(snapshots: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    """A line for each snapshot, below titles."""
    columns = [Column("snapshot"), Column("taken"), Column("size", is_number=True), Column("")]
    rows = [
        [
            printable(each["name"]),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["made_ns"] // 1_000_000_000)),
            size_text(each["size_bytes"]),
            "" if each["is_below"] else "not below the drive",
        ]
        for each in snapshots
    ]
    return table_lines(columns, rows, width)


def job_line(job: Mapping[str, Any] | None) -> str:
    """How far a merge of layers is, or why it has failed."""
    if job is None:
        return "nothing is merged"
    kind = {"merge": "merges", "flatten": "flattens"}.get(job["kind"], job["kind"])
    where = f" into {printable(job['snapshot'])}" if job["snapshot"] else ""
    if job["error"]:
        return f"{kind}{where}: has failed: {printable(job['error'])}"
    pace = f", {size_text(job['bps'])}/s at most" if job["bps"] else ""
    done = f"{size_text(job['done_bytes'])} of {size_text(job['total_bytes'])}"
    return f"{kind}{where}: {done} looked at, {size_text(job['copied_bytes'])} copied{pace}"


def state_text(state: Mapping[str, Any]) -> str:
    """One word: of a drive that runs, the same as `ringblk list` says."""
    if state["state"] != "running":
        return str(state["state"])
    if state.get("is_paused"):
        return "paused"
    return "connected" if state.get("is_connected") else "waiting"


def drive_lines(name: str, drive: Drive) -> list[str]:
    """All that there is to say of a drive: what has become of it, then its settings as they may be set."""
    state = drive["state"]
    facts: dict[str, Any] = {"state": state_text(state)}
    for field, value in state.items():
        if field == "size_bytes":
            facts["size"] = f"{size_text(value)} ({value} bytes)"
        elif field == "uptime_s":
            facts["up"] = duration_text(int(value * 1e9))
        elif field == "processes":
            facts["processes"] = ", ".join(f"{role} {pid}" for role, pid in value.items())
        elif field == "job":
            facts["job"] = job_line(value)
        elif field == "limits":
            facts["limits"] = ", ".join(value) or "none"
        elif field not in ("name", "state", "is_paused", "is_connected"):
            facts[field] = value
    settings = {field: value for field, value in drive.items() if field != "state" and value is not None}
    width = max(map(len, [*facts, *settings]))
    return [
        printable(name),
        *(f"  {field:<{width}}  {_value_text(value)}" for field, value in facts.items()),
        "",
        *(f"  {field:<{width}}  {_value_text(value)}" for field, value in settings.items()),
    ]


def done_line(name: str, what: str, drive: Drive) -> str:
    """What was done to a drive, and what it is now."""
    return f"{printable(name)}: {what} ({state_text(drive['state'])})"


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (dict, list)):
        return printable(msgspec.json.encode(value).decode())
    return printable(str(value))
