from ringblk.workers.native_backend import NativeBackend

class NullBackend(NativeBackend):
    """A drive that keeps nothing."""

    def __init__(self, size_bytes: int) -> None: ...
