"""What is said of a copy-on-write drive's layers; light, as every engine with a control API knows of it."""

from typing import Literal

import msgspec


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a drive."""

    name: str
    made_ns: int
    """In nanoseconds since 1970."""
    size_bytes: int
    """Of the drive, then."""
    is_below: bool
    """Whether the drive lies on it; it does not after it was reset to an earlier one."""


class NoSuchSnapshot(Exception):  # noqa: N818
    """The drive has no snapshot of this name."""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A merge that is under way, or has failed."""

    kind: Literal["merge", "flatten"]
    snapshot: str
    """The one that gets the blocks; empty: a layer that is none."""
    done_bytes: int
    """Of the drive, that were looked at."""
    total_bytes: int
    copied_bytes: int
    bps: int
    """Bytes a second that it may copy; 0: as many as it can."""
    error: str = ""
    """Why it has failed. It is tried again with the next change of layers, and at the next start."""
