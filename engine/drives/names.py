"""The names of what a drive has in shared memory, and the processes that they tell of.

Its state segment is called after the engine's supervisor, with eight random digits behind: but for the only
drive of an engine, unless that name is taken. Its record is called after the drive and the supervisor. A name
proves nothing: anybody may make a file of any.
"""

import os
import re

from ringblk.shm.state.segment import SEGMENT_PREFIX

RECORD_PREFIX = "ringblk-drive-"
SEGMENT_PATTERN = re.escape(SEGMENT_PREFIX) + r"(?P<pid>[0-9]+)(?:-[0-9a-f]{8})?"
_SEGMENT = re.compile(SEGMENT_PATTERN, re.ASCII)
_RECORD = re.compile(re.escape(RECORD_PREFIX) + r"[0-9a-f]+-(?P<pid>[0-9]+)-[0-9]+", re.ASCII)


def segment_name(pid: int) -> str:
    """The name of the segment of an engine's only drive where nobody has taken it."""
    return f"{SEGMENT_PREFIX}{pid}"


def other_segment_name(pid: int) -> str:
    """Another name for it, which nobody can guess."""
    return f"{segment_name(pid)}-{os.urandom(4).hex()}"


def record_prefix(key: str | None = None) -> str:
    """How the names of records begin, or of those of the drive that has `key` for a digest."""
    return RECORD_PREFIX if key is None else f"{RECORD_PREFIX}{key}-"


def own_record_prefix(key: str, pid: int) -> str:
    """How the names of those begin that this supervisor makes; a number follows."""
    return f"{record_prefix(key)}{pid}-"


def supervisor_of(name: str) -> int | None:
    """The supervisor that the name of a segment or record tells of."""
    match = _SEGMENT.fullmatch(name) or _RECORD.fullmatch(name)
    return int(match["pid"]) if match else None


def spoken_names(name: str) -> set[str]:
    """What a person may call a segment: its name, or what is behind the prefix of all."""
    return {name, name.removeprefix(SEGMENT_PREFIX)}
