from ringblk.workers.backends.native import NativeBackend

class NullBackend(NativeBackend):
    """A drive that keeps nothing."""

    def __init__(self, size_bytes: int) -> None: ...
