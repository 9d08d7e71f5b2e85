from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.requests.request import RequestExecutor

class Pump:
    def __init__(
        self,
        state: StateSegment,
        worker_index: int,
        memory: GuestMemory,
        executor: RequestExecutor,
        own_eventfd: int,
        dispatcher_eventfd: int,
        channel_fd: int,
    ) -> None: ...
    def run(self) -> bool: ...
    def take_control(self) -> None: ...
