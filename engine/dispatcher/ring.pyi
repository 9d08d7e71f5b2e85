from ringblk.shm.state import StateSegment
from ringblk.workers.request import RequestExecutor
from ringblk.workers.uring import Uring

class DispatcherRing:
    def __init__(self, state: StateSegment, executor: RequestExecutor, uring: Uring | None) -> None: ...
