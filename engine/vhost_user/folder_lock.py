"""One program at a time puts sockets into a folder, or takes them out."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

PATIENCE_S = 1.0
"""How long to wait for the others; who keeps a lock that everybody may take keeps nobody off for longer."""
_LOOK_S = 0.002


@contextlib.contextmanager
def folder_lock(path: str) -> Iterator[None]:
    """Hold the lock of the folder that `path` is in, which goes with its holder, however that ends.

    Goes on without it where it cannot be had: a folder that this user may not list, a file system without
    locks, somebody who keeps it.
    """
    try:
        fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        given_up_s = time.monotonic() + PATIENCE_S
        while not _try_lock(fd) and time.monotonic() < given_up_s:
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    """False: another holds it. Where there are no locks, that is as good as having it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
