"""The lock of an overlay: one engine has it for good, and with it takes up the maps of its layers."""

from typing import TYPE_CHECKING

from ringblk.workers.backends.image_lock import ImageLock

if TYPE_CHECKING:
    from ringblk.workers.backends.layered import LayeredBackend


class LayerLock(ImageLock):
    """That of the file `data` in the overlay's folder, and that of the top layer's `data`.

    The first is the same whatever the layers are. The second is the fence: what a dead engine has on its way
    to the disk holds that file open.
    """

    def __init__(self, backend: "LayeredBackend") -> None:
        super().__init__(backend.lock_fd, read_only=False)
        self._backend = backend

    @property
    def can_be_given_up(self) -> bool:
        """Another host has a live map of its own."""
        return False

    def lock(self) -> None:
        """As `ImageLock.lock`; raises `BackendError` as well, where the overlay is damaged."""
        missing = self._try_lock()
        self._backend.prepare()
        while not self._backend.is_current():  # whoever had it before has changed its layers
            self._backend.open_again()
            self._fd = self._backend.lock_fd
            missing = self._try_lock()
        self._backend.take_up()
        if missing is not None:
            raise missing

    def _try_lock(self) -> OSError | None:
        """Why there are no locks, where there are none: the engine goes on without. Raises `ImageLocked`."""
        try:
            super().lock()
            ImageLock(self._backend.data.fd, read_only=False).lock()
        except OSError as error:
            return error
        return None
