from ringblk.shm.memory import GuestMemory
from ringblk.shm.state import StateSegment
from ringblk.workers.pump import Pump
from ringblk.workers.request import RequestExecutor
from ringblk.workers.uring import Uring

class UringPump(Pump):
    def __init__(
        self,
        state: StateSegment,
        worker_index: int,
        memory: GuestMemory,
        executor: RequestExecutor,
        own_eventfd: int,
        dispatcher_eventfd: int,
        uring: Uring,
    ) -> None: ...
