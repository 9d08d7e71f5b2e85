"""The lock of an image that one engine has for good: with it a map is taken up."""

from collections.abc import Callable

from ringblk.workers.backends.image_lock import ImageLock


class TakeUpLock(ImageLock):
    """The exclusive lock of an image; who has it calls `take_up`."""

    def __init__(self, fd: int, take_up: Callable[[], None]) -> None:
        super().__init__(fd, read_only=False)
        self._take_up = take_up

    @property
    def can_be_given_up(self) -> bool:
        """Another engine would have a map of its own."""
        return False

    def lock(self) -> None:
        """As `ImageLock.lock`; raises `BackendError` as well, where the map cannot be taken up."""
        try:
            super().lock()
        except OSError:  # there are no locks, and the engine goes on without
            self._take_up()
            raise
        self._take_up()
