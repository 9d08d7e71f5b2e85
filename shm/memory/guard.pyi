from typing_extensions import Buffer

from ringblk.shm.state.segment import StateSegment

class GuardedInflight(Buffer):
    def __init__(
        self, state: StateSegment, fd: int, size_bytes: int, offset_bytes: int, *, or_lost: bool = False
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
