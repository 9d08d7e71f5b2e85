from collections.abc import Sequence

from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.open_storage import OpenNbd
from ringblk.workers.nbd.export import NbdExport

SYSTEM_CALLS: str

class NbdBackend(NativeBackend):
    """A drive whose bytes an NBD server keeps."""

    def __init__(
        self, uri: str, *, read_only: bool = ..., reconnect_s: float | None = ..., connections: int = ...
    ) -> None: ...
    @staticmethod
    def take(found: OpenNbd, fds: Sequence[int]) -> NbdBackend: ...
    @property
    def export(self) -> NbdExport: ...
