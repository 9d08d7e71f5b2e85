"""What the processes of one drive are made of."""

import msgspec

from ringblk.engine.devices.io_plan import IoPlan
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.rates.limit import RateLimit
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.requests.drive_requests import DriveRequests
from ringblk.workers.sandbox.sandbox import Sandbox


class ProcessSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What dispatcher and workers inherit, and how they are to go about it."""

    config: DriveConfig
    backend: NativeBackend
    requests: DriveRequests
    state: StateSegment
    rate_limit: RateLimit
    sandbox: Sandbox
    plan: IoPlan
    inherited_fds: frozenset[int]
    """What the children keep open: what the backend opened, and the segments."""

    def done_count(self) -> int:
        """Requests that the drive has completed."""
        return sum(self.state.used_count(index) for index in range(self.config.num_queues))
