"""Shared memory: named, of which other processes know, or without a name.

Named memory is a file in a folder that Linux has in memory (/dev/shm, shm_open(3)). So it can be listed,
locked with flock(2), and looked at before it is opened. What macOS gives by shm_open can be none of that, and
its names have 31 bytes at most. So the portable form maps plain files: in /dev/shm, else in /tmp.
"""

import contextlib
import errno
import fcntl
import mmap
import os

import posix_ipc

from ringblk.shm.platform.form import LINUX

_IN_MEMORY = "/dev/shm"
IS_IN_MEMORY = LINUX or os.path.isdir(_IN_MEMORY)
"""Whether the system has a folder in memory for it."""
FOLDER = _IN_MEMORY if IS_IN_MEMORY else "/tmp"
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ZEROES_BYTES = 1 << 20


def create_named(name: str) -> int:
    """Make memory of this name (without slash), of no bytes yet. Its descriptor is the caller's.

    Raises `OSError`: `FileExistsError` where the name is taken.
    """
    if not LINUX:
        return os.open(_path(name), _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        return int(posix_ipc.SharedMemory("/" + name, posix_ipc.O_CREX, mode=0o600).fd)
    except (posix_ipc.Error, ValueError) as error:
        raise _as_os_error(error, FileExistsError) from error


def open_named(name: str) -> int:
    """Open the memory of this name, without waiting for anybody. Its descriptor is the caller's.

    Raises `OSError`: `FileNotFoundError` where there is none.
    """
    if not LINUX:
        return os.open(_path(name), _FLAGS)
    try:
        return int(posix_ipc.SharedMemory("/" + name, os.O_NONBLOCK).fd)
    except (posix_ipc.Error, ValueError) as error:
        raise _as_os_error(error, FileNotFoundError) from error


def unlink_named(name: str) -> None:
    """Remove a name; the memory lives until the last process unmaps it. Raises `OSError`."""
    if not LINUX:
        os.unlink(_path(name))
        return
    try:
        posix_ipc.unlink_shared_memory("/" + name)
    except (posix_ipc.Error, ValueError) as error:
        raise _as_os_error(error, FileNotFoundError) from error


def _as_os_error(error: Exception, existential: type[OSError]) -> OSError:
    if isinstance(error, posix_ipc.ExistentialError):
        number = errno.EEXIST if existential is FileExistsError else errno.ENOENT
    else:
        number = errno.EACCES if isinstance(error, posix_ipc.PermissionsError) else errno.EINVAL
    return OSError(number, str(error))


def make_unnamed(name: str, size_bytes: int, *, is_sealed: bool = False) -> int:
    """Memory of zeroes without a name, but one for who lists descriptors. Its descriptor is the caller's.

    With `is_sealed` nobody can cut it off or make it longer, where the system has such a thing (Linux).
    Raises `OSError`.
    """
    if not LINUX:
        import tempfile  # not where it is no use: it brings much along

        fd, path = tempfile.mkstemp(prefix=f"{name}-", dir=FOLDER)
        os.unlink(path)
        return _sized(fd, size_bytes)
    fd = os.memfd_create(name, os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if is_sealed else 0))
    _sized(fd, size_bytes)
    if is_sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def _sized(fd: int, size_bytes: int) -> int:
    try:
        os.ftruncate(fd, size_bytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def reserve(fd: int, offset_bytes: int, size_bytes: int) -> None:
    """Have memory for a part of it that nobody uses yet: no room is an error now, and no SIGBUS later.

    What stands there stays. Raises `OSError`.
    """
    if hasattr(os, "posix_fallocate"):
        if size_bytes:
            os.posix_fallocate(fd, offset_bytes, size_bytes)
        return
    end_bytes = offset_bytes + size_bytes
    if os.fstat(fd).st_size < end_bytes:
        os.ftruncate(fd, end_bytes)
    while offset_bytes < end_bytes:
        piece = os.pread(fd, min(_ZEROES_BYTES, end_bytes - offset_bytes), offset_bytes)
        offset_bytes += os.pwrite(fd, piece, offset_bytes)


def give_back(memory: mmap.mmap, offset_bytes: int, size_bytes: int) -> None:
    """Let go of whole pages of mapped shared memory, which read as zeroes from then on."""
    if not size_bytes:
        return
    if LINUX:
        memory.madvise(mmap.MADV_REMOVE, offset_bytes, size_bytes)
        return
    for start in range(offset_bytes, offset_bytes + size_bytes, _ZEROES_BYTES):
        length = min(_ZEROES_BYTES, offset_bytes + size_bytes - start)
        memory[start : start + length] = bytes(length)


def rename_named(former_name: str, name: str) -> None:
    """Give it another name. Where it has none any more it gets none."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(_path(former_name), _path(name))


def _path(name: str) -> str:
    if "/" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return os.path.join(FOLDER, name)
