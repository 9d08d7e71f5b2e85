"""The bodies of what is asked of a copy-on-write drive's layers."""

import msgspec

from ringblk.engine.drives.layers import Snapshot


class SnapshotBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /drives/{id}/snapshots`."""

    name: str


class SnapshotsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /snapshots`: of several drives at one instant."""

    name: str
    drives: list[str]


class ResetBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /drives/{id}/reset`."""

    snapshot: str | None = None
    """None: to the base."""
    force: bool = False
    """Though a front end is connected, whose guest may have in memory what is gone then."""


class SnapshotsAnswer(msgspec.Struct, frozen=True):
    """`GET /drives/{id}/snapshots`, the oldest first."""

    snapshots: list[Snapshot]
