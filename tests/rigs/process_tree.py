"""An engine's processes, found in /proc."""

import contextlib
import os
import select
import signal
import time
from pathlib import Path

ZYGOTE = "rb-zygote"
OPENER = "rb-opener"
"""Opens an image, and is gone."""


def process_name(pid: int) -> str:
    """What listings show; empty where there is no such process any more."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def children_of(pid: int) -> list[int]:
    """What a process has forked and not reaped."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def zygotes_of(pid: int) -> list[int]:
    """An engine's living zygotes: one, or none where it has died and the next is not there yet.

    The one that has started this supervisor in the place of another is its parent.
    """
    found = [each for each in (parent_of(pid), *children_of(pid)) if process_name(each) == ZYGOTE]
    return [each for each in found if not has_ended(each)]


def drive_processes_of(pid: int) -> list[int]:
    """Dispatchers and workers of an engine, whoever has forked them.

    What the supervisor has forked has its name at first, and may be a zygote: it is left out.
    """
    others = (ZYGOTE, OPENER, process_name(pid))
    found = [child for child in children_of(pid) if process_name(child) not in others]
    for zygote in zygotes_of(pid):
        found += [child for child in children_of(zygote) if child != pid]
    return found


def parent_of(pid: int) -> int:
    """Its parent; 0 where there is no such process."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def remembers_dead(pid: int) -> bool:
    """Whether a process has a pidfd of one that has ended."""
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("Pid:\t") and has_ended(int(line.split()[1])):
                    return True
    return False


def has_ended(pid: int) -> bool:
    """Whether it runs no more, reaped or not."""
    return process_state(pid) in ("", "Z", "X")


def process_state(pid: int) -> str:
    """Its letter, as listings show it; empty where there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def processes_with(variable: str) -> list[int]:
    """Living processes whose environment at their start has this (NAME=VALUE)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def kill_all_with(variable: str) -> None:
    """SIGKILL all of them, and what they start meanwhile."""
    while pids := processes_with(variable):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_none_with(variable: str, timeout_s: float = 30.0) -> None:
    """Wait until there is none of them any more."""
    deadline_s = time.monotonic() + timeout_s
    while pids := processes_with(variable):  # a look at all processes of the machine: not again and again
        left_s = deadline_s - time.monotonic()
        assert left_s > 0, f"left: {[(pid, process_name(pid)) for pid in pids]}"
        _wait_end_of(pids[0], left_s)


def _wait_end_of(pid: int, timeout_s: float) -> None:
    """Return when it has ended, or after that time."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([pidfd], [], [], timeout_s)
    finally:
        os.close(pidfd)
