"""Other processes as the system tells of them (proc(5)): who lives, whose they are, what they have open.

Where there is no such table to read, little can be told: whether a process is there, and that one which this
process may signal is its own user's.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from ringblk.shm.platform.process import watch_process

_TABLE = "/proc"
HAS_TABLE = os.path.isdir(f"{_TABLE}/self")
_PF_EXITING = 0x4  # linux/sched.h
_SIGKILL_BIT = 1 << (signal.SIGKILL - 1)
_PARENT, _FLAGS, _USER_TICKS, _SYSTEM_TICKS, _STARTTIME = 1, 6, 11, 12, 19  # fields behind the process's name


class OpenDescriptor(NamedTuple):
    """A descriptor that a process has open: a path to it, and what it leads to."""

    path: str
    target: str


def own_name() -> str:
    """What process listings call this process; what it was started as where they cannot be asked."""
    with contextlib.suppress(OSError), open(f"{_TABLE}/self/comm", errors="surrogateescape") as name_file:
        return name_file.read().rstrip("\n")
    return os.path.basename(sys.orig_argv[0])


def own_thread_count() -> int:
    """Threads of this process; 1 where nobody says."""
    try:
        return len(os.listdir(f"{_TABLE}/self/task"))
    except OSError:
        return 1


def own_seccomp_mode() -> str:
    """2 where a filter of system calls holds this process; empty where nobody says."""
    return next((line.split()[1] for line in _status_of("self") if line.startswith("Seccomp:")), "")


def process_ids() -> list[int]:
    """All processes; none where they cannot be listed."""
    try:
        return [int(entry) for entry in os.listdir(_TABLE) if entry.isdecimal()]
    except OSError:
        return []


def user_ids(pid: int) -> set[int]:
    """The process's real, effective, saved and file system user; none if it is gone, or cannot be told.

    Its name, which stands there as well, may be any bytes.
    """
    if not HAS_TABLE:
        return {os.geteuid()} if _may_signal(pid) and os.geteuid() != 0 else set()
    words = next((line.split() for line in _status_of(pid) if line.startswith("Uid:")), [])
    return {int(word) for word in words[1:]}


def is_running(pid: int) -> bool:
    """Whether the process lives and is not about to end.

    One that was killed may hang in the kernel for as long as the disk does; it does nothing any more.
    """
    try:
        watch_fd = watch_process(pid)
    except ProcessLookupError:
        return False
    except OSError:  # refused, or not to be had of who is no child: the state tells
        if not HAS_TABLE:
            return _may_signal(pid) is not None
        return _state_of(pid) not in ("", "Z", "X") and not _is_ending(pid)
    try:
        return not select.select([watch_fd], [], [], 0)[0] and not _is_ending(pid)
    finally:
        os.close(watch_fd)


def began_ns(pid: int) -> int:
    """A time of the monotonic clock before which the process did nothing; 0 if it is gone, or nobody says.

    The kernel counts ticks of the clock that goes on while the machine is suspended. What that clock is ahead
    by now is at least what it was ahead by when the process began.
    """
    fields = _stat_fields(pid)
    if sys.platform != "linux" or not fields:
        return 0
    ahead_s = -time.monotonic()  # first: what passes between the two makes the answer earlier, never later
    ahead_s += time.clock_gettime(time.CLOCK_BOOTTIME)
    return int((int(fields[_STARTTIME]) / os.sysconf("SC_CLK_TCK") - ahead_s) * 1e9)


def cpu_s(pid: int) -> float:
    """CPU time of a process; 0 where it has gone, or nobody says."""
    fields = _stat_fields(pid)
    if not fields:
        return 0.0
    return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / os.sysconf("SC_CLK_TCK")


def parent_of(pid: int) -> int | None:
    """The parent of a process; None where it is gone, or nobody says."""
    fields = _stat_fields(pid)
    return int(fields[_PARENT]) if fields else None


def open_descriptors(pid: int) -> Iterator[OpenDescriptor]:
    """What a process has open; nothing where it is gone, another user's, or nobody says."""
    folder = f"{_TABLE}/{pid}/fd"
    try:
        entries = os.listdir(folder)
    except OSError:
        return
    for entry in entries:
        path = f"{folder}/{entry}"
        with contextlib.suppress(OSError):  # closed meanwhile
            yield OpenDescriptor(path, os.readlink(path))


def private_mappings(pid: int) -> list[tuple[range, int]]:
    """Where a process has private mappings of files, and the inodes of these. Raises `OSError`.

    The files' names may be any bytes.
    """
    found = []
    with open(f"{_TABLE}/{pid}/maps", "rb") as maps:
        for line in maps:
            place, permissions, _, _, inode, *_ = line.split()
            if permissions.endswith(b"p") and inode != b"0":
                start, end = (int(word, 16) for word in place.split(b"-"))
                found.append((range(start, end), int(inode)))
    return found


def _may_signal(pid: int) -> bool | None:
    """Whether this process may; None: there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return False
    return True


def _state_of(pid: int) -> str:
    """The process's state as a letter; nothing if it is gone."""
    return next(iter(_stat_fields(pid)), "")


def _is_ending(pid: int) -> bool:
    """Whether SIGKILL waits to be seen, or the process is in its exit already."""
    status, fields = _status_of(pid), _stat_fields(pid)
    if not status or not fields:
        return False
    pending = [line.split()[1] for line in status if line.startswith(("SigPnd:", "ShdPnd:"))]
    return bool(int(fields[_FLAGS]) & _PF_EXITING) or any(int(mask, 16) & _SIGKILL_BIT for mask in pending)


def _status_of(process: int | str) -> list[str]:
    try:
        with open(f"{_TABLE}/{process}/status", errors="replace") as status_file:
            return status_file.read().splitlines()
    except OSError:
        return []


def _stat_fields(pid: int) -> list[str]:
    """What stands behind the process's name, which may be any bytes; nothing if it is gone."""
    try:
        with open(f"{_TABLE}/{pid}/stat", errors="replace") as stat_file:
            return stat_file.read().rpartition(")")[2].split()
    except OSError:
        return []
