"""What a dispatcher is made of."""

import msgspec

from ringblk.shm.rates.limit import RateLimit
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.requests.drive_requests import DriveRequests
from ringblk.workers.sandbox.sandbox import Sandbox
from ringblk.workers.uring.ring import Uring


class DispatcherSetup(msgspec.Struct, frozen=True):
    """What a dispatcher inherits from the supervisor that forks it."""

    state: StateSegment
    backend: NativeBackend | None
    """None: the first message brings it (`OpenDrive`)."""
    requests: DriveRequests
    own_eventfd: int
    uring: Uring | None
    inline_limit_ns: int
    poll_ns: int
    chain_limit: int
    rate_limit: RateLimit
    is_rate_shared: bool
    sandbox: Sandbox
