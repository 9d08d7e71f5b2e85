from ringblk.workers.backends.asynchronous import AsyncForm
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.uring.ring import Uring

class UringForm(AsyncForm):
    """The asynchronous form that io_uring gives to every backend with a descriptor."""

    def __init__(self, uring: Uring, backend: NativeBackend, channel_fd: int = -1) -> None: ...
    @property
    def uring(self) -> Uring: ...
    @property
    def free_count(self) -> int: ...
