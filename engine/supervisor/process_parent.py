"""Who forks a drive's processes: the zygote, or the supervisor itself."""

import errno
import os
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from ringblk.engine.zygote.messages import Fork
from ringblk.shm.platform.process import watch_process
from ringblk.workers.uring.ring import Uring

OnReaped = Callable[[int | None], None]
"""Called with the wait status of a process that was reaped; None: nobody knows it."""


class StartedProcess(Protocol):
    """A process that was forked."""

    pid: int
    pidfd: int
    """Readable once it has ended. Whoever watches it closes it."""
    waits_for_message: bool
    """Whether it does nothing at all until its first message."""
    uring: Uring | None
    """Its io_uring, which this process has as well; None: it has none, or has ended before it used it."""
    ring_fd: int
    """The descriptor that its io_uring has in the process itself; 0: it has none, or nobody has to know."""

    def forget_ring(self) -> None:
        """Its io_uring needs to be nowhere any more: it has ended and is fenced, or nobody goes on."""

    def when_reaped(self, on_reaped: OnReaped) -> None:
        """Have `on_reaped` called, now or later. The process has ended: its pidfd says so."""


class ProcessParent(Protocol):
    """Forks processes."""

    inherits_storage: bool
    """Whether what it forks has the storage without being handed it."""

    def fork(self, fork: Fork, fds: Sequence[int], kept_fds: Collection[int]) -> StartedProcess:
        """Fork what is asked for, with copies of `fds`, and of what the backend has opened for it besides.

        Raises `OSError`, `RingUnshared` among them.
        """


class RingUnshared(OSError):  # noqa: N818
    """The io_uring of a process that the zygote forks cannot be had here (pidfd_getfd(2)): fork from here."""


def open_pidfd(pid: int) -> int:
    """A descriptor to watch a child by. Raises `OSError`, with what to change where calls are refused."""
    try:
        return watch_process(pid)
    except OSError as error:
        raise cannot_watch(error.errno or 0) from error


def cannot_watch(error_number: int) -> OSError:
    """Why a process that nobody would see end is not kept."""
    reason = os.strerror(error_number)
    if error_number in (errno.EPERM, errno.ENOSYS):
        reason = "pidfd_open(2) is refused, by an old kernel or the seccomp filter of a container"
    return OSError(error_number, f"child processes cannot be watched: {reason}")
