"""I/O past the system's page cache: O_DIRECT on Linux, F_NOCACHE on macOS. Both belong to the open file."""

import errno
import fcntl
import os
import sys

from ringblk.shm.platform.form import LINUX

_NO_CACHE = None if LINUX else getattr(fcntl, "F_NOCACHE", None)
HAS_UNCACHED = LINUX or _NO_CACHE is not None
"""Whether there is such a thing at all. Where not, going without is no news of a file."""
NEEDS_ALIGNMENT = LINUX
"""Whether requests past the cache must be aligned. Where not, what is unaligned goes through it."""


def set_uncached(fd: int) -> None:
    """Let I/O on `fd` go past the page cache. Raises `OSError` where file or system have no such thing."""
    if LINUX:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    elif _NO_CACHE is not None:
        fcntl.fcntl(fd, _NO_CACHE, 1)
    else:
        raise OSError(errno.EOPNOTSUPP, "no I/O past the page cache in this build")


def unset_uncached(fd: int) -> None:
    """Let it go through the page cache again. Raises `OSError`."""
    if LINUX:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
    elif _NO_CACHE is not None:
        fcntl.fcntl(fd, _NO_CACHE, 0)


def sync_file(fd: int) -> None:
    """Bring what was written to the disk, past its own cache (fsync(2), F_FULLFSYNC). Raises `OSError`."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def drop_cache(fd: int) -> None:
    """Let the page cache forget the file, where the system can be told. Raises `OSError`."""
    if sys.platform != "darwin":
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
