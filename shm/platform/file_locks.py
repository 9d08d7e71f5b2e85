"""Record locks that belong to an open file description (fcntl(2), "Open file description locks").

All processes that share the description share the lock, and it ends with the last of them. Linux and macOS
have them, under different numbers and with a different struct flock.
"""

import errno
import fcntl
import os
import struct
import sys

READ, WRITE, NONE = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
TO_THE_END = 0
"""A length: to the file's end, however far that is."""

if sys.platform == "darwin":
    _SET, _GET = 90, 92  # F_OFD_SETLK, F_OFD_GETLK of sys/fcntl.h
    _FLOCK = struct.Struct("qqihh")  # l_start, l_len, l_pid, l_type, l_whence
else:
    _SET, _GET = getattr(fcntl, "F_OFD_SETLK", None), getattr(fcntl, "F_OFD_GETLK", None)
    _FLOCK = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid

HAS_RECORD_LOCKS = _SET is not None
"""Without them there is flock(2), of whole files."""


def set_lock(fd: int, kind: int, start_bytes: int = 0, length_bytes: int = TO_THE_END) -> None:
    """Lock a part of a file, or (`NONE`) let it go, at once. Raises `OSError`."""
    if _SET is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.fcntl(fd, _SET, _pack(kind, start_bytes, length_bytes))


def get_lock(fd: int, start_bytes: int, length_bytes: int, kind: int = WRITE) -> tuple[int, int, int]:
    """Kind, start and length of a lock of others that such a lock there would run into. Raises `OSError`."""
    if _GET is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fields = _FLOCK.unpack(fcntl.fcntl(fd, _GET, _pack(kind, start_bytes, length_bytes)))
    if sys.platform == "darwin":
        return fields[3], fields[0], fields[1]
    return fields[0], fields[2], fields[3]


def _pack(kind: int, start_bytes: int, length_bytes: int) -> bytes:
    if sys.platform == "darwin":
        return _FLOCK.pack(start_bytes, length_bytes, 0, kind, os.SEEK_SET)
    return _FLOCK.pack(kind, os.SEEK_SET, start_bytes, length_bytes, 0)
