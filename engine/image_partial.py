"""The stand-in that an image is written into, which becomes the target once it is whole."""

import errno
import glob
import os
import secrets
import stat
from pathlib import Path

from ringblk.engine.image_error import ImageError
from ringblk.workers.direct_open import CREATED_MODE
from ringblk.workers.image_lock import ImageLocked, lock_image

_NOT_OURS = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.EISDIR,
    errno.ENXIO,
    errno.EWOULDBLOCK,
)
"""What opening a stand-in may end in that no killed run has left."""


class PartialFile:
    """The target's stand-in, `.NAME.partial-XXXX` beside it: only a whole one gets the target's name.

    Holds the lock of the target that is to be replaced, so that no engine starts on it meanwhile, and one on
    the stand-in, by which a later run knows those of killed ones and removes them.
    """

    def __init__(self, target: Path, *, replace: bool, lock: bool = True) -> None:
        """Make the stand-in. Raises ImageError if the target exists and is not to be replaced, ImageLocked.

        Without `lock`, locking the stand-in is left to the program that writes it.
        """
        self.target = target
        self._replace = replace
        self._target_fd = self._lock_target()
        try:
            remove_stale_partials(target)
            self.path = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, CREATED_MODE)
            if lock:
                lock_image(self._fd, read_only=True)  # shared: it is read again to be verified
        except BaseException:
            self._close_target()
            raise

    def fileno(self) -> int:
        """Return its descriptor, open for reading and writing."""
        return self._fd

    def commit(self) -> None:
        """Give it the target's name, for good: its directory is synced. Raises ImageError as making did."""
        if self._target_fd is None:  # it may have come into being, and into use, meanwhile
            self._target_fd = self._lock_target()
        os.rename(self.path, self.target)
        directory = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._close()

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self._close()

    def _lock_target(self) -> int | None:
        self._check_absent()
        try:
            fd = os.open(self.target, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not os.path.isfile(self.target):
                raise ImageError("only a regular file can be replaced")
            lock_image(fd, read_only=False)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_absent(self) -> None:
        if os.path.lexists(self.target) and not self._replace:
            raise ImageError("exists already: --force replaces it")

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._close_target()

    def _close_target(self) -> None:
        if self._target_fd is not None:
            os.close(self._target_fd)
            self._target_fd = None


def remove_stale_partials(target: Path) -> None:
    """Remove what killed runs left beside the target: a stand-in that nobody holds the lock of."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.partial-????????"):
        try:
            # The folder may be everybody's: no link is followed, no FIFO opened, nobody's lease waited for.
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _NOT_OURS:
                continue
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                continue
            lock_image(fd, read_only=False)
            path.unlink(missing_ok=True)
        except ImageLocked:
            pass
        finally:
            os.close(fd)
