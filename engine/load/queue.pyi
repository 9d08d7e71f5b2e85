from ringblk.engine.frontend.buffer import Buffer
from ringblk.engine.frontend.queue import FrontendQueue
from ringblk.shm.layout.histogram import Histogram

class LoadQueue:
    """One queue's share of a load."""

    stopping: bool
    def __init__(
        self,
        queue: FrontendQueue,
        buffer: Buffer,
        *,
        block_bytes: int,
        first_block: int,
        block_count: int,
        depth: int,
        is_sequential: bool,
        read_percent: int,
        seed: int,
    ) -> None: ...
    @property
    def histogram(self) -> Histogram: ...
    @property
    def error_count(self) -> int: ...
    @property
    def started_count(self) -> int: ...
    @property
    def write_count(self) -> int: ...
    def run(self, begin_ns: int, end_ns: int) -> None: ...
