import os
from collections.abc import Sequence

from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.image_lock import ImageLock
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.open_storage import OpenOverlay
from ringblk.workers.layers.folder import LayerFiles

class OverlayBackend(NativeBackend):
    """A drive with a base: what was written is in a layer of its own."""

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        size_bytes: int | None = ...,
        direct: str = ...,
    ) -> None: ...
    @property
    def base(self) -> FileBackend: ...
    @property
    def data(self) -> FileBackend: ...
    @property
    def files(self) -> LayerFiles: ...
    @property
    def folder(self) -> str: ...
    def image_lock(self) -> ImageLock: ...
    def take_up(self) -> None: ...
    def state(self, block: int) -> int: ...
    @staticmethod
    def take(found: OpenOverlay, fds: Sequence[int]) -> OverlayBackend: ...
