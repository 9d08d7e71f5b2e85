from ringblk.shm.memory import GuestMemory
from ringblk.shm.state import StateSegment
from ringblk.workers.native_backend import NativeBackend
from ringblk.workers.request import RequestExecutor

class BlockExecutor(RequestExecutor):
    def __init__(
        self, state: StateSegment, memory: GuestMemory, backend: NativeBackend, drive_id: bytes
    ) -> None: ...
