"""Processes that the supervisor forks from itself, because they need the storage as it is in memory there."""

import gc
import os
import signal
from collections.abc import Callable, Collection, Sequence
from functools import partial

from ringblk.engine.supervisor.process_parent import OnReaped, open_pidfd
from ringblk.engine.zygote.forked_process import live
from ringblk.engine.zygote.messages import Fork
from ringblk.engine.zygote.zygote import flush_standard_streams, leave_parent
from ringblk.shm.platform.process import die_with_parent, set_process_name
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.uring.ring import Uring


class OwnProcess:
    """One that this process has forked itself."""

    waits_for_message = False
    ring_fd = 0

    def __init__(self, pid: int, uring: Uring | None = None) -> None:
        self.pid = pid
        self.pidfd = open_pidfd(pid)
        self.uring = uring

    def forget_ring(self) -> None:
        """Nobody else has it."""

    def when_reaped(self, on_reaped: OnReaped) -> None:
        """Reap it."""
        on_reaped(os.waitpid(self.pid, 0)[1])


class OwnForks:
    """The parent of a drive's processes where storage can only be inherited: a user's object, made once.

    And of those whose io_uring could not be had here, if the zygote forked them; and of all where none is.
    """

    def __init__(
        self, backend: NativeBackend, inherited_fds: Collection[int], *, inherits_storage: bool
    ) -> None:
        """`inherited_fds` is what the backend may have opened besides those that it names.

        Without `inherits_storage` a process makes its own of what it is handed over, as the zygote's do: this
        process's may know more descriptors than it names, which are not open there.
        """
        self.inherits_storage = inherits_storage
        self._backend = backend
        self._inherited_fds = inherited_fds

    def fork(self, fork: Fork, fds: Sequence[int], kept_fds: Collection[int]) -> OwnProcess:
        """Fork it; it has what the backend has opened besides. Raises `OSError`."""
        uring = Uring(fork.ring_entries) if fork.ring_entries else None
        ring_fd = -1 if uring is None else uring.fileno()
        return fork_from_here(
            fork.process_name,
            partial(live, fork, fds, ring_fd, self._backend),
            {*fds, *kept_fds, *self._inherited_fds, *self._backend.fds} | ({ring_fd} if uring else set()),
            uring,
        )


def fork_from_here(
    name: str, body: Callable[[], None], keep_fds: set[int], uring: Uring | None = None
) -> OwnProcess:
    """Fork a process that runs `body` and keeps these descriptors and the standard ones. Raises `OSError`."""
    parent_pid = os.getpid()
    flush_standard_streams()
    pid = os.fork()
    if pid == 0:
        _begin(name, body, keep_fds, parent_pid)
    try:
        return OwnProcess(pid, uring)
    except OSError:  # nobody would see it end
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _begin(name: str, body: Callable[[], None], keep_fds: set[int], parent_pid: int) -> None:
    try:
        gc.freeze()  # what is garbage of the parent's would close descriptors here that are others' by now
        leave_parent(keep_fds)
        if die_with_parent(parent_pid):
            set_process_name(name)
            body()
    finally:
        os._exit(1)
