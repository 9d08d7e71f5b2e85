"""The workers: started, watched, replaced."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from ringblk.engine.supervisor.child import Child, was_own_fault
from ringblk.engine.supervisor.child_ring import ChildRing
from ringblk.engine.supervisor.engine_model import EngineModel
from ringblk.engine.supervisor.restart_limit import RestartLimit
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.channel import Channel, ChannelClosed
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.process.messages import Stop, ToWorker
from ringblk.workers.process.worker import WorkerSetup, run_worker
from ringblk.workers.sandbox.sandbox import Sandbox
from ringblk.workers.uring.ring import Uring

URING_ENTRIES = 128
"""Requests that one worker has under way at once, and one for its eventfd."""


class Workforce:
    """All worker processes of one engine.

    `on_death(worker_index, wait_status)` is called when one has ended and was reaped, so that none of its
    I/O can still land; `start` may then be called for the index again.
    """

    def __init__(
        self,
        state: StateSegment,
        backend: NativeBackend,
        drive_id: bytes,
        model: EngineModel,
        dispatcher_eventfd: int,
        keep_fds: Callable[[], set[int]],
        on_death: Callable[[int, int], None],
        uses_uring: bool,
        sandbox: Sandbox,
    ) -> None:
        self._state = state
        self._backend = backend
        self._drive_id = drive_id
        self._model = model
        self._dispatcher_eventfd = dispatcher_eventfd
        self._keep_fds = keep_fds
        self._on_death = on_death
        self._children: dict[int, Child[None]] = {}
        self._eventfds: dict[int, int] = {}
        self._ring_entries = URING_ENTRIES if uses_uring else 0
        self._sandbox = sandbox
        self._rings: dict[int, ChildRing] = {}
        self._limits: dict[int, RestartLimit] = {}
        self.wanted_count = 0
        """Workers that there are to be: those with indexes below it."""
        self._retiring: dict[int, asyncio.Future[None]] = {}

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by worker index."""
        return {index: child.pid for index, child in self._children.items()}

    def start(self, worker_index: int, *, is_restart: bool = False) -> int:
        """Start a worker on its rings; returns the eventfd that wakes it."""
        self._fork(worker_index)
        return self._introduce(worker_index, is_restart)

    def start_all(self) -> dict[int, int]:
        """Start as many as there are to be; returns their eventfds by worker index.

        They are forked one right after the other: what the supervisor writes to between two forks, each
        of them has a copy of its own of.
        """
        for worker_index in range(self.wanted_count):
            self._fork(worker_index)
        return {index: self._introduce(index, is_restart=False) for index in range(self.wanted_count)}

    def _fork(self, worker_index: int) -> None:
        if worker_index not in self._eventfds:
            self._eventfds[worker_index] = os.eventfd(0, os.EFD_CLOEXEC)
        eventfd = self._eventfds[worker_index]
        ring = self._rings.setdefault(worker_index, ChildRing(self._ring_entries))

        def make_body(uring: Uring | None) -> Callable[[Channel[Any]], None]:
            setup = WorkerSetup(
                worker_index,
                self._state,
                self._backend,
                self._drive_id,
                eventfd,
                self._dispatcher_eventfd,
                uring,
                self._sandbox,
            )
            return partial(run_worker, setup)

        child: Child[None] = ring.fork(
            f"rb-worker-{worker_index}",
            make_body,
            None,
            ToWorker,
            self._keep_fds() | {eventfd, self._dispatcher_eventfd},
        )
        self._children[worker_index] = child

    def _introduce(self, worker_index: int, is_restart: bool) -> int:
        """Watch a worker that was forked, and tell it what there is; returns its eventfd."""
        child = self._children[worker_index]
        self._state.set_worker(worker_index, child.pid, is_restart)
        child.announce = partial(self._announce, worker_index)
        child.watch(lambda _, status: self._ended(worker_index, status))
        with contextlib.suppress(ChannelClosed):  # its pidfd tells the rest
            for message, fds in self._model.worker_setup():
                child.send(message, fds)
        self._announce(worker_index)
        return self._eventfds[worker_index]

    def may_restart(self, worker_index: int, status: int, engine_count: int) -> bool:
        """Count a death; False when this worker dies again and again without a request done."""
        limit = self._limits.setdefault(worker_index, RestartLimit())
        own_count = self._state.worker_counters(worker_index)[0]
        return limit.allows(own_count, engine_count, was_own_fault(status))

    def begin_retirement(self, worker_index: int) -> "asyncio.Future[None]":
        """Replace this worker no more when it ends; the future is done when it has ended and was reaped."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._retiring[worker_index] = future
        return future

    def is_retiring(self, worker_index: int) -> bool:
        """Whether the worker is to end."""
        return worker_index in self._retiring

    def finish_retirement(self, worker_index: int) -> None:
        """The worker has ended and nothing of its work is left; its index may be used again."""
        future = self._retiring.pop(worker_index)
        if not future.done():
            future.set_result(None)

    def stop_one(self, worker_index: int) -> None:
        """Ask a worker that holds nothing to end, if it has not ended already."""
        child = self._children.get(worker_index)
        if child is not None:
            with contextlib.suppress(ChannelClosed):
                child.send(Stop())
            self._announce(worker_index)

    async def fence(self, worker_index: int) -> None:
        """Wait until nothing that a reaped worker began can still land."""
        # A write ends the ring's own read of the eventfd.
        wake = partial(os.eventfd_write, self._eventfds[worker_index], 1)
        await self._rings[worker_index].fence(f"worker {worker_index}", wake)

    def tell(self, message: ToWorker, fds: tuple[int, ...] = ()) -> None:
        """Send to every worker; one that hangs in a system call reads it later."""
        for worker_index, child in self._children.items():
            try:
                child.send(message, fds)
            except ChannelClosed:
                continue  # its pidfd tells the rest
            self._announce(worker_index)

    @property
    def have_room(self) -> bool:
        """Whether all have read most of what they were told."""
        return all(child.has_room for child in self._children.values())

    def stop(self) -> None:
        """Ask every worker to end; nothing is in flight."""
        self.tell(Stop())

    def kill(self) -> None:
        """End every worker at once."""
        for child in self._children.values():
            child.kill()

    def close(self) -> None:
        """Close what is left when all have ended."""
        for eventfd in self._eventfds.values():
            os.close(eventfd)
        self._eventfds.clear()

    def _announce(self, worker_index: int) -> None:
        self._state.announce_control(worker_index)
        os.eventfd_write(self._eventfds[worker_index], 1)

    def _ended(self, worker_index: int, status: int) -> None:
        del self._children[worker_index]
        self._state.set_worker(worker_index, 0)
        self._on_death(worker_index, status)
