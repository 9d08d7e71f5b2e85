from ringblk.shm.state.segment import StateSegment
from ringblk.workers.requests.request import RequestParser

class RequestRecorder:
    def __init__(self, state: StateSegment, parser: RequestParser) -> None: ...
    def record_many(self, slot_index: int, count: int, slot_count: int = 1) -> None: ...
    def fill_slot(
        self,
        slot_index: int,
        *,
        operation: int,
        wait_ns: int,
        service_ns: int,
        length_bytes: int = 0,
        status: int = 0,
        throttled_ns: int = 0,
        queue_index: int = 0,
        slot_state: int = 0,
    ) -> None: ...
