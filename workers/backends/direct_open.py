"""Opening a file for direct I/O, or without it where that is refused and the caller said "auto"."""

import errno
import fcntl
import logging
import os
import re
import stat
from typing import NamedTuple

from ringblk.shm.platform import block_device
from ringblk.shm.platform.descriptors import reopen
from ringblk.workers.backends.direct_io import DirectMode, set_direct, unset_direct, warn_of_refusal

CREATED_MODE = 0o666  # less the umask, as any program that writes a file for its user
CACHED_ALIGNMENT_BYTES = 4096  # not needed through the page cache; whole pages are cheaper
# For whoever copies whole images: a quarter of the wake-ups of 1 MiB buffers, which counts on busy cores.
LARGE_BUFFER_BYTES = 4 << 20

_DESCRIPTOR_PATH = re.compile(r"/(?:dev|proc/self|proc/thread-self)/fd/(\d+)")
_STANDARD_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}

log = logging.getLogger(__name__)


class OpenedFile(NamedTuple):
    """An open file and whether I/O on it goes past the page cache; `refusal` says why not.

    One that was open before has the flags that it had then (F_GETFL) in `flags_before`: others may have the
    same open file description.
    """

    fd: int
    direct: bool
    alignment_bytes: int
    refusal: str | None
    flags_before: int | None = None

    @property
    def is_wrapped(self) -> bool:
        """Whether it was open before."""
        return self.flags_before is not None


def open_direct(path: str | os.PathLike[str], flags: int, mode: DirectMode) -> OpenedFile:
    """Open `path` and set the direct flag. Raises OSError, also for a refused flag if `mode` is "on".

    `alignment_bytes` serves for offsets, lengths and memory alike.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, CREATED_MODE)
    try:
        return _make_direct(fd, path, mode)
    except BaseException:
        os.close(fd)
        raise


def open_target(
    file: str | os.PathLike[str] | int, mode: DirectMode, *, exclusive: bool = False
) -> OpenedFile:
    """Create the file at a path, or empty it (`exclusive`: it must not exist); or wrap a descriptor.

    A path that names a descriptor of this process, `/dev/fd/N`, is wrapped too, by a duplicate. Raises
    OSError, and ValueError for a descriptor that should not exist yet.
    """
    given = file if isinstance(file, int) else descriptor_of(file)
    if given is None:
        assert not isinstance(file, int)
        return open_direct(file, os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else os.O_TRUNC), mode)
    if exclusive:
        raise ValueError("a descriptor that is open exists already")
    if isinstance(file, int):
        return wrap_direct(file, mode)
    duplicate = fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, 0)
    try:
        return wrap_direct(duplicate, mode)
    except BaseException:
        os.close(duplicate)
        raise


def release(opened: OpenedFile, *, keep_open: bool = False) -> None:
    """Close; what was wrapped gets the flags back that it had."""
    if opened.flags_before is not None:
        unset_direct(opened.fd)
        fcntl.fcntl(opened.fd, fcntl.F_SETFL, opened.flags_before)
    if not keep_open:
        os.close(opened.fd)


def wrap_direct(fd: int, mode: DirectMode) -> OpenedFile:
    """Set the direct flag of a descriptor that is open for writing, as `open_direct` does. Never closes it.

    Raises OSError, also for what is neither a regular file nor a block device, and for one that appends: the
    kernel would write at its end, whatever place is asked for (pwrite(2)).
    """
    name = f"descriptor {fd}"
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "is open for reading only", name)
    if flags & os.O_APPEND:
        raise OSError(errno.EINVAL, "is open for appending", name)
    file_mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(file_mode) and not stat.S_ISBLK(file_mode):
        raise OSError(errno.ESPIPE, "is neither a regular file nor a block device", name)
    if mode == "off":
        unset_direct(fd)
    return _make_direct(fd, name, mode)._replace(flags_before=flags)


def open_again(fd: int, access: int) -> int:
    """Open what a descriptor is open on once more (`access`: O_RDONLY or O_RDWR), without waiting.

    That makes an open file description of our own: its flags are nobody else's, and a lock on it keeps out
    another program that was given the same descriptor. Where it is refused, to a user who may not open the
    file, a duplicate has to do. Raises OSError, also for more access than the descriptor has.
    """
    name = f"descriptor {fd}"
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_ACCMODE not in (access, os.O_RDWR):
        has = "reading" if flags & os.O_ACCMODE == os.O_RDONLY else "writing"
        raise OSError(errno.EBADF, f"it is open for {has} only", name)
    try:
        return reopen(fd, access | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT):
            raise
        if flags & os.O_APPEND:
            raise OSError(errno.EINVAL, "it is open for appending", name) from error
        log.warning(
            "%s: cannot be opened again (%s): who has it too is not kept off it", name, error.strerror
        )
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)


def size_of(fd: int) -> int:
    """Return the length of a regular file or block device, whose position stays. Raises OSError."""
    found = os.fstat(fd)
    return block_device.device_size_bytes(fd) if stat.S_ISBLK(found.st_mode) else found.st_size


def descriptor_of(path: str | os.PathLike[str]) -> int | None:
    """Tell which descriptor of this process a path names: `/dev/fd/3` names 3."""
    name = os.fspath(path)
    found = _DESCRIPTOR_PATH.fullmatch(name)
    return int(found[1]) if found else _STANDARD_STREAMS.get(name)


def _make_direct(fd: int, path: str | os.PathLike[str], mode: DirectMode) -> OpenedFile:
    if mode == "off":
        return OpenedFile(fd, False, CACHED_ALIGNMENT_BYTES, "not asked for")
    try:
        alignment = set_direct(fd)
    except OSError as error:
        if mode == "on":
            raise OSError(
                error.errno, f"direct I/O is refused ({error.strerror or error})", os.fspath(path)
            ) from error
        refusal = f"direct I/O is refused ({error.strerror or error})"
        warn_of_refusal(log, f"{os.fspath(path)}: {refusal}, going through the page cache")
        return OpenedFile(fd, False, CACHED_ALIGNMENT_BYTES, refusal)
    return OpenedFile(fd, True, max(alignment), None)
