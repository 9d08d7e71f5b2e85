from ringblk.workers.backends.native import NativeBackend

class MemoryBackend(NativeBackend):
    """A drive in memory that all workers share."""

    def __init__(self, size_bytes: int) -> None: ...
