from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.requests.request import RequestExecutor

class BlockExecutor(RequestExecutor):
    def __init__(
        self, state: StateSegment, memory: GuestMemory, backend: NativeBackend, drive_id: bytes
    ) -> None: ...
