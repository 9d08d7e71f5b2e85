"""What a dispatcher is made of."""

import msgspec

from ringblk.engine.dispatcher.control_line import AdoptionPlace
from ringblk.shm.rates.limit import RateLimit
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.requests.drive_requests import DriveRequests
from ringblk.workers.sandbox.confinement import Confinement
from ringblk.workers.uring.ring import Uring


class DispatcherSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What a dispatcher has from its start."""

    state: StateSegment
    backend: NativeBackend
    requests: DriveRequests
    own_eventfd: int
    uring: Uring | None
    inline_limit_ns: int
    poll_ns: int
    chain_limit: int
    rate_limit: RateLimit
    is_rate_shared: bool
    confinement: Confinement
    ruleset_fd: int
    adoption: AdoptionPlace | None = None
    """Where another control plane comes to, should this one die; None: the process ends with it."""
