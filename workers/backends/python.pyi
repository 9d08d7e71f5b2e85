from ringblk.workers.backends.interface import BlockBackend
from ringblk.workers.backends.native import NativeBackend

class PythonBackend(NativeBackend):
    """A user's Python object as a native backend."""

    def __init__(self, backend: BlockBackend) -> None: ...
    @property
    def backend(self) -> BlockBackend: ...
