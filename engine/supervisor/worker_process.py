"""One worker's life: started, told, watched, fenced, replaced, retired."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ringblk.engine.base.restart_limit import RestartLimit
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.dispatcher.messages import ToDispatcher, WorkerDown, WorkerRetire, WorkerUp
from ringblk.engine.supervisor.child import Child, describe_end, was_own_fault
from ringblk.engine.supervisor.child_ring import ChildRing
from ringblk.engine.supervisor.dispatcher_link import DispatcherGone, DispatcherLink
from ringblk.engine.supervisor.drive_model import DriveModel
from ringblk.engine.supervisor.kept_processes import ProcessesKeeper
from ringblk.engine.supervisor.process_setup import WORKER_ENTRIES, ProcessSetup
from ringblk.engine.zygote.messages import WorkerRole
from ringblk.shm.platform.wakeups import make_wakeup, write_wakeup
from ringblk.shm.sync.channel import ChannelClosed
from ringblk.shm.sync.process import crash_point
from ringblk.workers.process.messages import KeepRegions, Stop, ToWorker

_log = logging.getLogger(__name__)


class WorkerProcess:
    """A worker's place (its rings, its eventfd) and one process after the other in it.

    - A process is forked, and told what there is. From then on it is up: the dispatcher gives it requests.
    - One that died is reaped and fenced, so that nothing of its work can still land. The dispatcher gives
      what it held to others (`WorkerDown`), and only then another process may use its rings.
    - One that is to leave gets nothing more (`WorkerRetire`), and ends when it holds nothing.
    """

    def __init__(
        self,
        worker_index: int,
        setup: ProcessSetup,
        model: DriveModel,
        link: DispatcherLink,
        fail: Callable[[str], None],
        note_vacancy: Callable[[], None],
        keeper: ProcessesKeeper | None,
        eventfd: int | None = None,
    ) -> None:
        """`fail` is called with the reason when nobody may take its place. Raises `OSError`.

        `note_vacancy` is called when its place has become vacant. `eventfd` is the place's own where another
        control plane has made it.
        """
        self._index = worker_index
        self._setup = setup
        self._model = model
        self._link = link
        self._fail = fail
        self._note_vacancy = note_vacancy
        self._child: Child[None] | None = None
        entry_count = WORKER_ENTRIES if setup.plan.uses_worker_uring else 0
        self._ring = ChildRing(f"worker {worker_index}", entry_count, setup.backend)
        self._limit = RestartLimit()
        self._is_ending = False
        self._done_count = 0  # of requests, when it was last looked at
        self.is_vacant = True
        """Whether no process is there and nothing of the last one is left: another may be started."""
        self._is_released = False  # the dispatcher has said that it gives it nothing more
        self._left: asyncio.Future[None] | None = None  # while it is to leave: set when it has
        self._clearing: asyncio.Task[None] | None = None
        self._keeper = keeper
        self._eventfd = make_wakeup(blocks=True) if eventfd is None else eventfd

    @property
    def child(self) -> Child[None] | None:
        """Its process, while there is one."""
        return self._child

    @property
    def is_up(self) -> bool:
        """Whether a dispatcher may give it requests."""
        return self._child is not None and not self._is_released

    def up_message(self) -> tuple[ToDispatcher, Sequence[int]]:
        """What a dispatcher is told of a worker that is up."""
        return WorkerUp(self._index), [self._eventfd]

    # Begin

    def fork(self) -> None:
        """Fork a process on its rings, which nobody uses; `introduce` comes next. Raises `OSError`."""
        self._setup.state.open_worker(self._index)
        self._child = self._ring.start(
            self._setup,
            f"rb-worker-{self._index}",
            WorkerRole(worker_index=self._index),
            {"eventfd": self._eventfd, "dispatcher eventfd": self._link.eventfd},
            None,
        )
        self._is_released = False
        self.is_vacant = False

    def introduce(self) -> None:
        """Watch the process that was forked, and tell it what there is."""
        assert self._child is not None, "fork comes first"
        if self._keeper is not None:
            self._keeper.note_worker(self._index, self._child, self._eventfd)
        self._attend(self._child, self._model.worker_setup())

    def _attend(self, child: Child[None], messages: Iterable[tuple[ToWorker, Sequence[int]]]) -> None:
        """Watch the process that is in this place now, and tell it this first."""
        self._setup.state.set_worker(self._index, child.pid)
        self._done_count = -1
        child.announce = self._announce
        child.watch(self._ended)
        self._send(messages)

    def start(self) -> None:
        """Begin while a dispatcher runs, in a place that is vacant. Raises `OSError`."""
        self.fork()
        self.introduce()
        self._link.tell(*self.up_message())

    def adopt(self, child: Child[None]) -> None:
        """Go on with a process that another control plane has started, whatever it was told last."""
        self._child = child
        self._ring.adopt(child)
        self.is_vacant = False
        epochs = {index: mapped.message.epoch for index, mapped in self._model.regions.items()}
        self._attend(child, [(KeepRegions(epochs), ()), *self._model.worker_setup()])
        self._link.tell(*self.up_message())

    # Messages

    @property
    def has_room(self) -> bool:
        """Whether it has read most of what it was told."""
        return self._child is None or self._child.has_room

    def tell(self, message: ToWorker, fds: tuple[int, ...] = ()) -> None:
        """Send a message; a process that hangs in a system call reads it later."""
        self._send([(message, fds)])

    def _send(self, messages: Iterable[tuple[ToWorker, Sequence[int]]]) -> None:
        if self._child is None:
            return
        with contextlib.suppress(ChannelClosed):  # its pidfd tells the rest
            for message, fds in messages:
                self._child.send(message, fds)
        self._announce()

    def _announce(self) -> None:
        self._setup.state.announce_control(self._index)
        write_wakeup(self._eventfd)

    # End

    def _ended(self, _: Child[None], status: int | None) -> None:
        self._child = None
        has_died = not self._is_ending and (self._left is None or status not in (0, None))
        self._setup.state.set_worker(self._index, 0, has_died)
        if self._is_ending:
            return
        own_fault = False
        if has_died:
            own_fault = was_own_fault(status)
            _log.warning("worker %d died: %s", self._index, describe_end(status))
            own_count = self._setup.state.worker_counters(self._index)[0]
            if not self._limit.allows(own_count, self._setup.done_count(), own_fault):
                self._fail(f"worker {self._index} dies again and again without completing a request")
                return
        self._clearing = asyncio.get_running_loop().create_task(self._clear(own_fault))

    async def _clear(self, own_fault: bool) -> None:
        """It was reaped: have its work done elsewhere, and only then let another use its rings."""
        try:
            await self._fence()
            await self._link.ask(lambda request_id: WorkerDown(request_id, self._index, own_fault))
        except DispatcherGone:
            return
        except (OSError, DeviceError) as error:
            self._fail(f"cannot put another in the place of worker {self._index}: {error}")
            return
        crash_point("supervisor: worker cleared away")
        if self._keeper is not None:
            self._keeper.forget_worker(self._index)
        if not self._is_ending:
            self._leave()

    async def _fence(self) -> None:
        """Wait until nothing that the reaped process began can still land."""
        # A write ends the ring's own read of the eventfd.
        await self._ring.fence(partial(write_wakeup, self._eventfd))

    async def retire(self) -> None:
        """Have it finish what it holds and end; returns when nothing of it or its work is left."""
        if self.is_vacant:
            return
        if self._left is None:
            self._left = asyncio.get_running_loop().create_future()
            await self._link.ask(
                lambda request_id: WorkerRetire(request_id, self._index),
                settle=partial(self._let_go, self._child),
            )
        if self._left is not None:
            await asyncio.shield(self._left)

    async def retire_if_idle(self) -> None:
        """Have it end if it holds nothing; does not wait for that."""
        with contextlib.suppress(DeviceError):  # it holds something, or all ends
            await self._link.ask(
                lambda request_id: WorkerRetire(request_id, self._index, if_idle=True),
                settle=partial(self._let_go, self._child),
            )

    def has_been_idle(self) -> bool:
        """Whether it has done nothing since this was asked last, of the same process."""
        before, self._done_count = self._done_count, self._setup.state.worker_counters(self._index)[0]
        return self._done_count == before

    def _let_go(self, child: Child[None] | None, is_done: bool) -> None:
        """The dispatcher has said that it gives this process nothing more; no later one may.

        One that has died meanwhile has left already, or will: nobody may wait for that a second time.
        """
        if is_done and child is not None and child is self._child:
            self._is_released = True
            self._left = self._left or asyncio.get_running_loop().create_future()
            self.tell(Stop())

    def _leave(self) -> None:
        left, self._left = self._left, None
        self.is_vacant = True
        if left is not None and not left.done():
            left.set_result(None)
        self._note_vacancy()

    def stop(self) -> None:
        """Ask it to end with the drive's other processes; nothing is in flight."""
        self._is_ending = True
        if self._child is not None:
            with contextlib.suppress(ChannelClosed):  # its pidfd tells the rest
                self._child.stop(Stop())
            self._announce()

    def kill(self) -> None:
        """End it at once, and put nobody in its place."""
        self._is_ending = True
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """Close what is left when it has ended."""
        if self._clearing is not None:
            self._clearing.cancel()
        self._ring.close()
        os.close(self._eventfd)
