"""The dispatcher's process: started, watched, replaced, fenced."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from ringblk.engine.dispatcher.dispatcher import DispatcherSetup, run_dispatcher
from ringblk.engine.dispatcher.messages import FromDispatcher, ToDispatcher
from ringblk.engine.supervisor.child import Child
from ringblk.engine.supervisor.child_ring import ChildRing
from ringblk.engine.supervisor.restart_limit import RestartLimit
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.uring.ring import Uring

URING_ENTRIES = 256
"""Requests that the dispatcher has under way at once through its io_uring."""


class DispatcherProcess:
    """The one dispatcher of an engine, one process after the other.

    `on_death(wait_status)` is called when it was reaped, `hear` with each message that it sends.
    """

    def __init__(
        self,
        state: StateSegment,
        uses_uring: bool,
        inherited_fds: set[int],
        on_death: Callable[[int], None],
        hear: Callable[[FromDispatcher], None],
    ) -> None:
        self._state = state
        self._inherited_fds = inherited_fds
        self._on_death = on_death
        self._hear = hear
        self._child: Child[FromDispatcher] | None = None
        self._ring = ChildRing(URING_ENTRIES if uses_uring else 0)
        self.limit = RestartLimit()
        self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Wakes whichever process it is."""

    @property
    def pid(self) -> int | None:
        """Its process id, while there is one."""
        return None if self._child is None else self._child.pid

    def start(self, make_setup: Callable[[Uring | None], DispatcherSetup], *, is_restart: bool) -> Child[Any]:
        """Start a process; the former one was reaped and fenced."""
        child: Child[FromDispatcher] = self._ring.fork(
            "rb-dispatcher",
            lambda uring: partial(run_dispatcher, make_setup(uring)),
            FromDispatcher,
            ToDispatcher,
            self._inherited_fds | {self.eventfd},
        )
        self._child = child
        self._state.set_dispatcher(child.pid, is_restart)
        child.watch(self._ended, self._hear)
        return child

    async def fence(self) -> None:
        """Wait until nothing that a reaped dispatcher began can still land."""
        await self._ring.fence("dispatcher")

    def kill(self) -> None:
        """End it at once."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """Close what is left when it has ended."""
        os.close(self.eventfd)

    def _ended(self, _: Child[FromDispatcher], status: int) -> None:
        self._child = None
        self._state.set_dispatcher(0)
        self._on_death(status)
