"""`ringblk drive`: asks an engine's control API, and says in a line what was done."""

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.json_text import NotJson, decode_json
from ringblk.engine.base.number_text import size_text
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.text_table import terminal_width
from ringblk.engine.client.control_client import (
    AllDrives,
    AllSnapshots,
    ControlClient,
    OneDrive,
    drive_path,
)
from ringblk.engine.client.drive_view import Drive, done_line, drive_lines, list_lines, snapshot_lines
from ringblk.engine.options.command_line import drive_option_fields, given_values
from ringblk.engine.options.rate_limiter_config import BYTE_LIMITS, LIMIT_NAMES

NOTHING = ("none", "0")
"""How a limit is written that is to be taken away."""
_PATHS = ("socket_path", "blk_file", "track_changes", "base", "overlay", "cgroup")


def list_drives(arguments: argparse.Namespace) -> int:
    """`ringblk drive list`."""
    answer = ControlClient(arguments.control).ask("GET", "/drives", shape=AllDrives)
    if arguments.output == "json":
        _print_json(answer)
    elif answer["drives"]:
        print("\n".join(list_lines(answer["drives"], terminal_width())))
    else:
        print("this engine has no drives")
    return ExitStatus.DONE


def show_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive show`."""
    answer = ControlClient(arguments.control).ask("GET", drive_path(arguments.drive), shape=OneDrive)
    if arguments.output == "json":
        _print_json(answer)
    else:
        print("\n".join(drive_lines(arguments.drive, answer)))
    return ExitStatus.DONE


def add_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive add`. A path is where this program was started, whatever folder the engine is in."""
    settings: dict[str, Any] = given_values(arguments, drive_option_fields())
    client, path = ControlClient(arguments.control), drive_path(arguments.drive)
    if arguments.drive in client.ask("GET", "/drives", shape=AllDrives)["drives"]:
        raise ProgramError(f"drive {arguments.drive} is there already", ExitStatus.FAILED)
    body = {name: os.path.abspath(value) if name in _PATHS else value for name, value in settings.items()}
    if "sandbox_allow" in body:
        body["sandbox_allow"] = list(map(os.path.abspath, settings["sandbox_allow"]))
    return _say(arguments, "added", client.ask("PUT", path, body, shape=OneDrive))


def set_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive set`."""
    given = {
        "workers": arguments.workers,
        "cache": arguments.cache,
        "is_root_device": None if arguments.is_root_device is None else arguments.is_root_device == "yes",
        "partuuid": arguments.partuuid,
    }
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise ProgramError("nothing to set: see --help")
    if body.get("partuuid") == "none":
        body["partuuid"] = None
    return _patch(arguments, body, ", ".join(body) + " set")


def limit_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive limit`."""
    body: dict[str, Any] = {}
    for name in LIMIT_NAMES:
        if (text := getattr(arguments, name)) is not None:
            body[name] = _limit(name, text)
    if arguments.none:
        body = {**dict.fromkeys(LIMIT_NAMES), **body}
    if arguments.rate_limiter is not None:
        try:
            body["rate_limiter"] = decode_json(arguments.rate_limiter)
        except NotJson as error:
            raise ProgramError(f"--rate-limiter: {error}") from error
    if not body:
        raise ProgramError("no limit to set: see --help")
    answer = _ask_patch(arguments, body)
    limits = ", ".join(answer["state"].get("limits") or ()) or "none"
    return _say(arguments, f"limits: {limits}", answer)


def resize_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive resize`."""
    answer = _ask_patch(arguments, {"size_bytes": arguments.size})
    return _say(arguments, size_text(answer["state"]["size_bytes"]), answer)


def pause_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive pause`: done once nothing is in flight."""
    return _patch(arguments, {"is_paused": True}, "begins no more requests")


def resume_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive resume`."""
    return _patch(arguments, {"is_paused": False}, "goes on")


def remove_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive remove`."""
    force = "?force=true" if arguments.force else ""
    ControlClient(arguments.control).ask("DELETE", drive_path(arguments.drive) + force)
    if arguments.output == "human":
        print(f"{arguments.drive}: removed")
    return ExitStatus.DONE


def take_snapshot(arguments: argparse.Namespace) -> int:
    """`ringblk drive snapshot`."""
    client, path = ControlClient(arguments.control), drive_path(arguments.drive)
    answer = client.ask("POST", f"{path}/snapshots", {"name": arguments.name}, shape=dict[str, Any])
    if arguments.output == "json":
        _print_json(answer)
    else:
        print(f"{printable(arguments.drive)}: snapshot {printable(arguments.name)} taken")
    return ExitStatus.DONE


def list_snapshots(arguments: argparse.Namespace) -> int:
    """`ringblk drive snapshots`."""
    path = f"{drive_path(arguments.drive)}/snapshots"
    answer = ControlClient(arguments.control).ask("GET", path, shape=AllSnapshots)
    if arguments.output == "json":
        _print_json(answer)
    elif answer["snapshots"]:
        print("\n".join(snapshot_lines(answer["snapshots"], terminal_width())))
    else:
        print("this drive has no snapshots")
    return ExitStatus.DONE


def reset_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive reset`."""
    body = {"snapshot": arguments.name, "force": arguments.force}
    path = f"{drive_path(arguments.drive)}/reset"
    answer = ControlClient(arguments.control).ask("POST", path, body, shape=OneDrive)
    return _say(arguments, f"reset to {arguments.name or 'its base'}", answer)


def delete_snapshot(arguments: argparse.Namespace) -> int:
    """`ringblk drive delete-snapshot`."""
    path = f"{drive_path(arguments.drive)}/snapshots/{quote(arguments.name, safe='')}"
    ControlClient(arguments.control).ask("DELETE", path)
    if arguments.output == "human":
        print(f"{printable(arguments.drive)}: snapshot {printable(arguments.name)} deleted")
    return ExitStatus.DONE


def commit_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive commit`."""
    return _post(arguments, "commit", "committed to the snapshot below")


def flatten_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive flatten`."""
    return _post(arguments, "flatten", "copies what its base has")


def _post(arguments: argparse.Namespace, word: str, what: str) -> int:
    path = f"{drive_path(arguments.drive)}/{word}"
    return _say(arguments, what, ControlClient(arguments.control).ask("POST", path, shape=OneDrive))


def _patch(arguments: argparse.Namespace, body: Mapping[str, Any], what: str) -> int:
    return _say(arguments, what, _ask_patch(arguments, body))


def _ask_patch(arguments: argparse.Namespace, body: Mapping[str, Any]) -> Any:
    return ControlClient(arguments.control).ask("PATCH", drive_path(arguments.drive), body, shape=OneDrive)


def _say(arguments: argparse.Namespace, what: str, answer: Drive) -> int:
    if arguments.output == "json":
        _print_json(answer)
    else:
        print(done_line(arguments.drive, what, answer))
    return ExitStatus.DONE


def _limit(name: str, text: str) -> str | int | None:
    """A size goes as it is written: the engine reads it, and says what is wrong with it."""
    if text in NOTHING:
        return None
    if name in BYTE_LIMITS:
        return text
    try:
        return int(text)
    except ValueError:
        raise ProgramError(f"--{name.replace('_', '-')}: {text} is not a whole number") from None


def _print_json(answer: object) -> None:
    print(msgspec.json.encode(answer).decode())


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_drives,
    "show": show_drive,
    "add": add_drive,
    "set": set_drive,
    "remove": remove_drive,
    "pause": pause_drive,
    "resume": resume_drive,
    "resize": resize_drive,
    "limit": limit_drive,
    "snapshot": take_snapshot,
    "snapshots": list_snapshots,
    "reset": reset_drive,
    "delete-snapshot": delete_snapshot,
    "commit": commit_drive,
    "flatten": flatten_drive,
}
"""By the words of the command line."""
