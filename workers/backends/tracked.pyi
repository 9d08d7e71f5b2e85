import os
from collections.abc import Sequence

from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.image_lock import ImageLock
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.open_storage import OpenTracked
from ringblk.workers.changes.tracker_folder import TrackerFolder

class TrackedBackend(NativeBackend):
    """An image of which it is known what has changed since a point."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        direct: DirectMode = ...,
    ) -> None: ...
    @property
    def data(self) -> FileBackend: ...
    @property
    def folder(self) -> TrackerFolder | None: ...
    def image_lock(self) -> ImageLock: ...
    def take_up(self) -> None: ...
    @staticmethod
    def take(found: OpenTracked, fds: Sequence[int]) -> TrackedBackend: ...
