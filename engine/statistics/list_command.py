"""`ringblk list`: a line for each drive of this machine, from shared memory alone."""

import sys
from typing import Literal

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.number_text import duration_text, size_text
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.text_table import Column, table_lines, terminal_width
from ringblk.engine.statistics.running_engines import RunningEngines
from ringblk.engine.statistics.statistics import DriveState, StatisticsSnapshot


class ListedDrive(msgspec.Struct, frozen=True):
    """What is said of a drive."""

    drive: str
    storage: str
    state: DriveState
    is_connected: bool
    is_paused: bool
    broken_queues: list[int]
    capacity_bytes: int
    supervisor_pid: int
    uptime_ns: int
    name: str
    """Its segment's."""


def run_list(list_format: Literal["human", "json"]) -> int:
    """Print; returns the exit status."""
    engines = RunningEngines()
    drives = sorted(map(listed, engines.snapshots()), key=lambda drive: (drive.drive, drive.supervisor_pid))
    if list_format == "json":
        print(msgspec.json.encode(drives).decode())
    elif drives:
        print("\n".join(list_lines(drives, terminal_width())))
    elif not engines.hidden_owners:
        print("no engine runs here")
    if engines.hidden_owners:
        print(f"ringblk list: {engines.hidden_text}", file=sys.stderr)
    return ExitStatus.FAILED if engines.hidden_owners and not drives else ExitStatus.DONE


def listed(snapshot: StatisticsSnapshot) -> ListedDrive:
    """What is said of the drive of a snapshot."""
    return ListedDrive(
        drive=snapshot.drive,
        storage=snapshot.storage,
        state=snapshot.state,
        is_connected=snapshot.is_connected,
        is_paused=snapshot.is_paused,
        broken_queues=[queue.queue_index for queue in snapshot.queues if queue.broken],
        capacity_bytes=snapshot.capacity_bytes,
        supervisor_pid=snapshot.supervisor_pid,
        uptime_ns=snapshot.uptime_ns,
        name=snapshot.name,
    )


def list_lines(drives: list[ListedDrive], width: int | None) -> list[str]:
    """A table that is not wider, unless its numbers are. A drive without a name is called after its image."""
    columns = [
        Column("drive", cut="head"),
        Column("state"),
        Column("size", is_number=True),
        Column("pid", is_number=True),
        Column("up", is_number=True),
        Column("image", cut="head"),
    ]
    rows = [
        [
            printable(drive.drive),
            drive.state,
            size_text(drive.capacity_bytes),
            str(drive.supervisor_pid),
            duration_text(drive.uptime_ns),
            "" if drive.storage == drive.drive else printable(drive.storage),
        ]
        for drive in drives
    ]
    if not any(row[-1] for row in rows):  # each is called after its image
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return table_lines(columns, rows, width)
