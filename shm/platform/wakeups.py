"""Wake-up descriptors for the control plane (wakeup_fd.pxd says what they are): made, written, recognised."""

import contextlib
import fcntl
import os
import stat

from ringblk.shm.platform.descriptors import kind_of
from ringblk.shm.platform.form import LINUX

IS_EVENTFD = LINUX
"""Whether one is an eventfd; else a FIFO."""
_EVENTFD = "anon_inode:[eventfd]"  # proc(5); a path of a file's own begins with a slash
_ONE = (1).to_bytes(8, "little")


def make_wakeup(*, blocks: bool = False) -> int:
    """One that was not written yet; the caller closes it. With `blocks` an io_uring may wait by a read of it.

    Raises `OSError`.
    """
    if LINUX:
        return os.eventfd(0, os.EFD_CLOEXEC | (0 if blocks else os.EFD_NONBLOCK))
    import tempfile  # not where it is no use: it brings much along

    with tempfile.TemporaryDirectory(prefix="ringblk-") as folder:
        path = os.path.join(folder, "wakeup")
        os.mkfifo(path, 0o600)
        # Both ways, so that neither end ever waits for the other, nor sees it go.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def write_wakeup(fd: int) -> None:
    """Wake whoever waits for it. Raises `OSError`."""
    with contextlib.suppress(BlockingIOError):  # full: whoever waits is woken already
        os.write(fd, _ONE)


def wakeup_fault(fd: int, *, is_read: bool) -> str | None:
    """What a descriptor is that is no wake-up descriptor, in words; None: it is one. Raises `OSError`.

    One end of a pipe is one for who is woken (`is_read`), the other for who wakes.
    """
    if not LINUX and stat.S_ISFIFO(os.fstat(fd).st_mode):
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
        if mode == (os.O_WRONLY if is_read else os.O_RDONLY):
            return f"the {'writing' if is_read else 'reading'} end of a pipe"
        return None
    kind = kind_of(fd) or stat.filemode(os.fstat(fd).st_mode)
    if kind == _EVENTFD:
        return None
    return f"no {'eventfd' if LINUX else 'pipe'}, but {kind.partition(':')[0]}"
