import os
from collections.abc import Sequence

from ringblk.workers.backends.layered import LayeredBackend
from ringblk.workers.backends.open_storage import OpenOverlay
from ringblk.workers.backends.overlay_open import OpenedOverlay

class OverlayBackend(LayeredBackend):
    """A drive with a base: what is written is in a layer of its own."""

    def __init__(
        self,
        base_path: str | os.PathLike[str] | None,
        folder: str | os.PathLike[str],
        *,
        size_bytes: int | None = ...,
        direct: str = ...,
        snapshot: str | None = ...,
    ) -> None: ...
    def copy_up(self, first: int, end: int, buffer: memoryview, with_base: bool) -> int: ...
    @staticmethod
    def of(opened: OpenedOverlay) -> OverlayBackend: ...
    @staticmethod
    def take(found: OpenOverlay, fds: Sequence[int]) -> OverlayBackend: ...
