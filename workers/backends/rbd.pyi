from collections.abc import Sequence

from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.open_storage import OpenRbd

SYSTEM_CALLS: str

class RbdBackend(NativeBackend):
    """A drive whose bytes a Ceph cluster keeps, as an RBD image."""

    def __init__(
        self, uri: str, *, read_only: bool = ..., conf: str | None = ..., user: str | None = ...
    ) -> None: ...
    @staticmethod
    def take(found: OpenRbd, fds: Sequence[int]) -> RbdBackend: ...
