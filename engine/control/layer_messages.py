"""The bodies of what is asked of a copy-on-write drive's layers."""

from typing import Annotated

import msgspec

from ringblk.engine.drives.layer_reports import Snapshot
from ringblk.workers.layers.extent import Extent


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


class JobPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`PATCH /drives/{id}/job`."""

    bps: Annotated[int, msgspec.Meta(ge=0)]
    """Bytes a second that may be copied; 0: as many as can be."""


class ChangedAnswer(msgspec.Struct, frozen=True):
    """`GET /drives/{id}/changed`: what may read otherwise, in whole blocks."""

    since: str
    size_bytes: int
    extents: list[Extent]
