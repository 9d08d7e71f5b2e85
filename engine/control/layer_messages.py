"""The bodies of what is asked of a copy-on-write drive's layers."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ringblk.engine.drives.layers import Snapshot
from ringblk.workers.layers.chain_form import MAX_NAME_BYTES

SnapshotName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]


class SnapshotBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /drives/{id}/snapshots`."""

    name: SnapshotName


class SnapshotsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /snapshots`: of several drives at one instant."""

    name: SnapshotName
    drives: Annotated[list[str], Meta(min_length=1)]


class ResetBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /drives/{id}/reset`."""

    snapshot: SnapshotName | None = None
    """None: to the base."""
    force: bool = False
    """Though a front end is connected, whose guest may have in memory what is gone then."""


class SnapshotsAnswer(msgspec.Struct, frozen=True):
    """`GET /drives/{id}/snapshots`, the oldest first."""

    snapshots: list[Snapshot]
