"""A drive with a front end as the next control plane gets it, should this one die."""

from collections.abc import Iterator

import msgspec

from ringblk.engine.dispatcher.messages import SetInflight, SetLog
from ringblk.engine.drives.image_hold import HoldState
from ringblk.engine.vhost_user.session_keeper import KeptSession
from ringblk.workers.process.messages import MapRegion


class KeptRegion(msgspec.Struct, frozen=True, array_like=True):
    """A region of guest memory; `fd` is a handle."""

    message: MapRegion
    fd: int
    is_current: bool


class KeptQueue(msgspec.Struct, frozen=True, array_like=True):
    """A queue that the dispatcher was asked to serve; what the front end says of it is the session's."""

    queue_index: int
    event_idx: bool
    is_enabled: bool
    is_started: bool


class KeptDrive(msgspec.Struct, frozen=True, kw_only=True):
    """The session, and what it has made of the drive. Descriptors are handles."""

    session: KeptSession
    next_request_id: int
    device: bytes
    """What the driver has chosen (`DeviceFace.choices`)."""
    regions: list[KeptRegion]
    epoch: int
    queues: list[KeptQueue]
    hold: HoldState
    has_let_go: bool
    inflight: tuple[SetInflight, int] | None
    is_inflight_shared: bool
    was_inflight_used: bool
    log: tuple[SetLog, int] | None
    is_logging: bool

    def handles(self) -> Iterator[int]:
        """All that are named here."""
        yield from self.session.handles()
        yield from (region.fd for region in self.regions)
        yield from (entry[1] for entry in (self.inflight, self.log) if entry is not None)
