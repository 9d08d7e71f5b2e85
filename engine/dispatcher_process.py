"""The dispatcher's process: started, watched, replaced, fenced."""

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any

from ringblk.engine.child import Child, fork_child
from ringblk.engine.dispatcher import DispatcherSetup, run_dispatcher
from ringblk.engine.dispatcher_messages import FromDispatcher, ToDispatcher
from ringblk.engine.restart_limit import RestartLimit
from ringblk.engine.workforce import FENCE_LOOK_S
from ringblk.shm.channel import Channel
from ringblk.shm.state import StateSegment
from ringblk.workers.uring import Uring

URING_ENTRIES = 256
"""Requests that the dispatcher has under way at once through its io_uring."""
FENCE_WARNING_S = 5.0

_log = logging.getLogger(__name__)


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
        self._uses_uring = uses_uring
        self._inherited_fds = inherited_fds
        self._on_death = on_death
        self._hear = hear
        self._child: Child[FromDispatcher] | None = None
        self._uring: Uring | None = None
        self.limit = RestartLimit()
        self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Wakes whichever process it is."""

    @property
    def pid(self) -> int | None:
        """Its process id, while there is one."""
        return None if self._child is None else self._child.pid

    def start(self, make_setup: Callable[[Uring | None], DispatcherSetup], *, is_restart: bool) -> Child[Any]:
        """Start a process; the former one was reaped and fenced."""
        uring = Uring(URING_ENTRIES) if self._uses_uring else None
        setup = make_setup(uring)

        def body(channel: Channel[Any]) -> None:
            run_dispatcher(setup, channel)

        keep_fds = self._inherited_fds | {self.eventfd}
        if uring is not None:
            keep_fds.add(uring.fileno())
        child: Child[FromDispatcher] = fork_child(
            "rb-dispatcher", body, FromDispatcher, ToDispatcher, keep_fds
        )
        if uring is not None:
            uring.keep_from_children()
        self._uring = uring
        self._child = child
        self._state.set_dispatcher(child.pid, is_restart)
        child.watch(self._ended, self._hear)
        return child

    async def fence(self) -> None:
        """Wait until nothing that a reaped dispatcher began can still land (see `Uring`).

        A disk that hangs makes it long, and is named then.
        """
        warn_at = time.monotonic() + FENCE_WARNING_S
        while self._uring is not None and not self._uring.is_idle:
            await asyncio.sleep(FENCE_LOOK_S)
            if time.monotonic() > warn_at:
                _log.warning("another dispatcher waits for the disk to answer the one that died")
                warn_at = math.inf

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
