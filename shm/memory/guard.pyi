from typing_extensions import Buffer

from ringblk.shm.state.segment import StateSegment

INFLIGHT: int
LOG: int

class GuardedPart(Buffer):
    def __init__(
        self,
        state: StateSegment,
        part: int,
        fd: int,
        size_bytes: int,
        offset_bytes: int,
        *,
        or_lost: bool = False,
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
