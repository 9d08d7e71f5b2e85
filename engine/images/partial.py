"""The stand-in that an image is written into, which becomes the target once it is whole."""

import errno
import glob
import hashlib
import os
import secrets
import stat
from pathlib import Path

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.file_access import (
    FileAccess,
    check_owner_can_be_kept,
    keep_access,
    read_access,
    set_new_access,
)
from ringblk.workers.backends.image_lock import ImageLocked, lock_image

PARTIAL_MODE = 0o600
TOKEN_BYTES = 4
DIGEST_CHARACTERS = 16  # of the SHA-256 of a name that is too long to be part of another one
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
    the stand-in, by which a later run knows those of killed ones and removes them. It is its maker's alone
    until it is whole; then it gets owner, mode and access control list of what it replaces, or a new file's
    mode, less what the source of its content does not allow.
    """

    def __init__(
        self, target: Path, *, replace: bool, lock: bool = True, source: FileAccess | None = None
    ) -> None:
        """Make the stand-in. Raises ImageError if the target exists and is not to be replaced, ImageLocked.

        Without `lock`, locking the stand-in is left to the program that writes it.
        """
        self.target = target
        self._replace = replace
        self._source = source
        self._fd = -1
        self._target_fd = self._lock_target()
        try:
            remove_stale_partials(target)
            self.path = target.with_name(f"{_stem(target)}{secrets.token_hex(TOKEN_BYTES)}")
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PARTIAL_MODE)
            if lock:
                lock_image(self._fd, read_only=True)  # shared: it is read again to be verified
            self._check_access()
        except BaseException:
            if self._fd >= 0:
                self.path.unlink(missing_ok=True)
            self._close()
            raise

    def fileno(self) -> int:
        """Return its descriptor, open for reading and writing."""
        return self._fd

    def commit(self) -> None:
        """Give it the target's name, for good: its directory is synced. Raises ImageError as making did."""
        if self._target_fd is None:  # it may have come into being, and into use, meanwhile
            self._target_fd = self._lock_target()
        if self._target_fd is not None:
            keep_access(self._fd, read_access(self._target_fd))
        else:
            set_new_access(self._fd, self._source)
        os.fsync(self._fd)  # owner and mode, too
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

    def _check_access(self) -> None:
        """Find out before everything is written whether the target's owner can be kept. Raises ImageError."""
        if self._target_fd is None:
            return
        try:
            check_owner_can_be_kept(self._fd, read_access(self._target_fd))
        except PermissionError:
            raise ImageError("it belongs to another user or group, which only root can keep") from None

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


def _stem(target: Path) -> str:
    """Return what the names of a target's stand-ins begin with: its own name, a long one in a short form."""
    stem = f".{target.name}.partial-"
    longest_bytes = os.pathconf(target.parent, "PC_NAME_MAX") - 2 * TOKEN_BYTES
    name = os.fsencode(target.name)
    if len(os.fsencode(stem)) <= longest_bytes:
        return stem
    digest = hashlib.sha256(name).hexdigest()[:DIGEST_CHARACTERS]
    rest_bytes = longest_bytes - len(f".~{digest}.partial-")
    # In whole characters: there are file systems that take no others.
    begin = name[:rest_bytes].decode(errors="ignore") if _is_text(name) else os.fsdecode(name[:rest_bytes])
    return f".{begin}~{digest}.partial-"


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def remove_stale_partials(target: Path) -> None:
    """Remove what killed runs left beside the target: a stand-in that nobody holds the lock of."""
    for path in target.parent.glob(f"{glob.escape(_stem(target))}{'?' * 2 * TOKEN_BYTES}"):
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
