from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.open_storage import OpenMemory

class MemoryBackend(NativeBackend):
    """A drive in memory that all workers share."""

    def __init__(self, size_bytes: int) -> None: ...
    @staticmethod
    def take(found: OpenMemory, fd: int) -> MemoryBackend: ...
