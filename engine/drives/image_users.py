"""Who uses an image: engines as their segments tell, be they alive or not."""

import os
import select
import signal
import time

from ringblk.engine.drives.segments import (
    DriveSegment,
    all_segments,
    named_segments,
    segments_of,
    user_ids,
)
from ringblk.shm.platform.process import watch_process
from ringblk.shm.segments.segment import SegmentError

_PF_EXITING = 0x4  # linux/sched.h
_SIGKILL_BIT = 1 << (signal.SIGKILL - 1)
_FLAGS, _STARTTIME = 6, 19  # fields behind the process's name


def engines_on(image: tuple[int, int]) -> list[int]:
    """The supervisors of engines whose image this is, be they alive or not, as far as it can be told.

    That is what segments say, and anybody may make one: ask `is_engine` before anything is done to a process.
    """
    found = _users_of(image, named_segments())
    # Those whose names are gone are looked for where nobody else is found: it takes a look at every process.
    return found or _users_of(image, all_segments())


def _users_of(image: tuple[int, int], segments: list[DriveSegment]) -> list[int]:
    return [each.pid for each in segments if each.pid is not None and image_of(each) == image]


def living(pids: list[int]) -> list[int]:
    """Those of these processes that are engines and run."""
    return [pid for pid in pids if is_engine(pid) and is_running(pid)]


def holder_name(living_engines: list[int]) -> str:
    """Who has an image that is locked, in words, where these engines use it."""
    return f"another engine (process {living_engines[0]})" if living_engines else "another program"


def is_engine(pid: int) -> bool:
    """Whether the process has a segment that it can have made, and that is held.

    Anybody may make a segment of any name; a signal is for who made it.
    """
    users = user_ids(pid)
    return any(segment.owner() in users and segment.is_held() for segment in segments_of(pid))


def image_of(segment: DriveSegment) -> tuple[int, int] | None:
    """Its engine's image. (0, 0): none, or it is not to be believed; None: it cannot be told."""
    try:
        return segment.image()
    except SegmentError:
        return (0, 0)


def is_running(pid: int) -> bool:
    """Whether the process lives and is not about to end.

    One that was killed may hang in the kernel for as long as the disk does; it does nothing any more.
    """
    try:
        watch_fd = watch_process(pid)
    except ProcessLookupError:
        return False
    except OSError:  # refused, or not to be had of who is no child: the state tells (proc(5))
        return _state_of(pid) not in ("", "Z", "X") and not _is_ending(pid)
    try:
        return not select.select([watch_fd], [], [], 0)[0] and not _is_ending(pid)
    finally:
        os.close(watch_fd)


def began_ns(pid: int) -> int:
    """A time of the monotonic clock before which the process did nothing; 0 if it is gone.

    The kernel counts ticks of the clock that goes on while the machine is suspended (proc(5)). What that
    clock is ahead by now is at least what it was ahead by when the process began.
    """
    fields = _stat_fields(pid)
    if not fields:
        return 0
    ahead_s = -time.monotonic()  # first: what passes between the two makes the answer earlier, never later
    ahead_s += time.clock_gettime(time.CLOCK_BOOTTIME)
    return int((int(fields[_STARTTIME]) / os.sysconf("SC_CLK_TCK") - ahead_s) * 1e9)


def _state_of(pid: int) -> str:
    """The process's state as a letter; nothing if it is gone."""
    return next(iter(_stat_fields(pid)), "")


def _is_ending(pid: int) -> bool:
    """Whether SIGKILL waits to be seen, or the process is in its exit already (proc(5))."""
    try:
        with open(f"/proc/{pid}/status", errors="replace") as status_file:
            status = status_file.read()
    except OSError:
        return False
    fields = _stat_fields(pid)
    if not fields:
        return False
    pending = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return bool(int(fields[_FLAGS]) & _PF_EXITING) or any(int(mask, 16) & _SIGKILL_BIT for mask in pending)


def _stat_fields(pid: int) -> list[str]:
    """What stands behind the process's name, which may be any bytes; nothing if it is gone (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as stat_file:
            return stat_file.read().rpartition(")")[2].split()
    except OSError:
        return []
