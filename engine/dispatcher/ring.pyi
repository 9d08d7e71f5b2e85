from ringblk.shm.state.segment import StateSegment
from ringblk.workers.requests.request import RequestExecutor
from ringblk.workers.uring.ring import Uring

class DispatcherRing:
    def __init__(self, state: StateSegment, executor: RequestExecutor, uring: Uring | None) -> None: ...
