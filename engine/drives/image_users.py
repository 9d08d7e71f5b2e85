"""Who uses an image: engines as their segments tell, be they alive or not."""

from ringblk.engine.drives.segments import (
    DriveSegment,
    all_segments,
    named_segments,
    segments_of,
)
from ringblk.shm.platform.process_table import is_running, user_ids
from ringblk.shm.segments.segment import SegmentError


def engines_on(image: tuple[int, int]) -> list[int]:
    """The supervisors of engines whose image this is, be they alive or not, as far as it can be told.

    That is what segments say, and anybody may make one: ask `is_engine` before anything is done to a process.
    """
    found = _users_of(image, named_segments())
    if any(is_running(pid) for pid in found):
        return found
    # Those whose names are gone are looked for where nobody else is found: it takes a look at every process.
    return _users_of(image, all_segments())


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
