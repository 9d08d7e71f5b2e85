"""The lock of an overlay: who has it takes up the maps of its layers, and lets go of them with it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ringblk.shm.platform.file_locks import NONE, TO_THE_END, set_lock
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
        """Not with a base that is fetched: who takes the overlay opens all of it anew."""
        return super().can_be_given_up and self._backend.found.fetched is None

    def lock(self) -> None:
        """As `ImageLock.lock`; raises `BackendError` as well, where the overlay is damaged."""
        self._take_up(super().lock)

    def claim(self) -> None:
        """As `ImageLock.claim`; the same."""
        self._take_up(super().claim)

    def give_up(self) -> None:
        """As `ImageLock.give_up`; the maps do not count from now on. What they say is on the disk already."""
        self._backend.let_go()
        if self._has_other_top:
            set_lock(self._backend.data.fd, NONE, 0, TO_THE_END)
        super().give_up()

    def _take_up(self, lock: Callable[[], None]) -> None:
        missing = self._try(lock)
        self._backend.prepare()
        while not self._backend.is_current():  # whoever had it before has changed its layers
            self._backend.open_again()
            self._fd = self._backend.lock_fd
            missing = self._try(lock)
        self._backend.take_up()
        if missing is not None:
            raise missing

    def _try(self, lock: Callable[[], None]) -> OSError | None:
        """Why there are no locks, where there are none: the engine goes on without. Raises `ImageLocked`."""
        try:
            lock()
            if self._has_other_top:
                ImageLock(self._backend.data.fd, read_only=False).lock()
        except OSError as error:
            return error
        return None

    @property
    def _has_other_top(self) -> bool:
        """Whether what is written to is another file than the one that is locked whatever the layers are."""
        return not self._backend.chain.layers[self._backend.chain.top].is_first
