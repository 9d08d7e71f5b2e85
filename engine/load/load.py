"""What a load generator does to a disk, and what it found."""

from typing import Annotated, Literal

import msgspec

from ringblk.shm.layout.sizes import MAX_QUEUE_SIZE
from ringblk.shm.state.segment import MAX_QUEUES
from ringblk.workers.backends.topology import SECTOR_BYTES

MAX_DEPTH = MAX_QUEUE_SIZE


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A steady load: a fixed number of requests of one size is always in flight."""

    block_bytes: Annotated[int, msgspec.Meta(ge=SECTOR_BYTES)] = 4096
    """Size of a request, and what its place on the disk is a multiple of; a multiple of 512."""
    depth: Annotated[int, msgspec.Meta(ge=1, le=MAX_DEPTH)] = 1
    """Requests in flight on each queue; what a ring has no room for waits for it, and its latency runs."""
    pattern: Literal["random", "sequential"] = "random"
    read_percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = 100
    """How many of the requests are reads; the others are writes."""
    num_queues: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUEUES)] = 1
    """Queues that are loaded, each by a thread of its own, as each CPU of a guest has its queue."""

    @property
    def memory_bytes(self) -> int:
        """Guest memory that the load's data needs (`memory_size_bytes` of the front end)."""
        return self.num_queues * self.depth * self.block_bytes + 4096


class LoadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a load came to in the measured time. Latencies in microseconds, from the submission of a request.

    `driver_us_per_io` is the CPU time of the load generator's process for each request,
    `backend_us_per_io` that of the processes it was told of. `other_percent` is what everything else on the
    machine used meanwhile, in percent of one core: how disturbed the figures are.
    """

    request_count: int
    error_count: int
    seconds: float
    iops: float
    mib_per_s: float
    mean_us: float
    p50_us: float
    p99_us: float
    p999_us: float
    driver_us_per_io: float
    backend_us_per_io: float
    other_percent: float


class LoadFailed(Exception):  # noqa: N818
    """The load could not be kept up: no request came back for a long time. Look at the back end."""
