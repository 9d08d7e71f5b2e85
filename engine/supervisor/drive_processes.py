"""The processes of one drive: its dispatcher and its workers."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.dispatcher.messages import (
    FromDispatcher,
    Pause,
    Report,
    Resume,
    ToDispatcher,
    WorkersWanted,
)
from ringblk.engine.supervisor.child import Child
from ringblk.engine.supervisor.dispatcher_process import DispatcherProcess
from ringblk.engine.supervisor.drive_model import DriveModel, Sent
from ringblk.engine.supervisor.kept_parts import AdoptedParts, KeptParts
from ringblk.engine.supervisor.kept_processes import AdoptedProcesses
from ringblk.engine.supervisor.process_setup import ProcessSetup
from ringblk.engine.supervisor.workforce import Workforce
from ringblk.shm.sync.channel import encode_message
from ringblk.shm.sync.parcel import pack_fds
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.open_storage import OpenOverlay
from ringblk.workers.process.messages import ChangeStorage, ToWorker

STOP_TIMEOUT_S = 5.0
"""How long children may take to end once told to; then they are killed."""
RENEW_S = 30.0
"""How long workers may hold requests that are to end before others come in their place."""

_log = logging.getLogger(__name__)


class ProcessesFailed(Exception):  # noqa: N818
    """A drive's processes cannot go on; the message says why. In-flight records are left for a successor."""


class DriveProcesses:
    """Starts them, watches them, replaces those that die, and ends them. Knows nothing of front ends.

    What they have been told is in the `DriveModel`, which whoever tells them keeps: a process that takes the
    place of another is told all of it again, and goes on from shared memory.
    """

    def __init__(
        self,
        setup: ProcessSetup,
        model: DriveModel,
        report: Callable[[Report], None],
        worker_count: int,
        adopted: AdoptedProcesses | None = None,
    ) -> None:
        """`report` takes what the dispatcher sends and is no answer.

        `adopted` are those of a control plane that has died, to be gone on with.
        """
        self._model = model
        self._report = report
        self._dispatcher = DispatcherProcess(setup, self._told, self._hear, self._fail, adopted)
        self._workers = Workforce(setup, model, self._dispatcher, self._fail, worker_count)
        self._has_failed = asyncio.Event()
        self._failure = ""

    def start(self) -> None:
        """Start the dispatcher; workers come when there is work. Raises `OSError`."""
        self._dispatcher.start()

    def adopt(self, adopted: AdoptedProcesses, parts: AdoptedParts) -> None:
        """Go on with these processes, and with what they have kept, once the model is as it was."""
        keeper = self._dispatcher.keeper
        assert keeper is not None, "processes that were not kept"
        keeper.resume(adopted.kept, parts)
        dispatcher = adopted.dispatcher
        self._dispatcher.adopt(Child("rb-dispatcher", dispatcher.process, dispatcher.channel))
        for index, worker in adopted.workers.items():
            self._workers.adopt(index, worker)
        self.parts.begin_second()
        # What held it may have died, or have been just about to.
        self.tell_dispatcher(Pause(0) if self._model.pause_holders else Resume(0))

    @property
    def are_kept(self) -> bool:
        """Whether they outlive this process, for another to go on with them."""
        return self._dispatcher.keeper is not None

    @property
    def are_outdated(self) -> bool:
        """Whether the dispatcher is a process of a program before this one."""
        return self._dispatcher.keeper is not None and self._dispatcher.keeper.is_outdated

    async def renew(self) -> None:
        """Put processes of this program in the place of all; the guest sees a pause. Raises `DeviceError`."""
        try:
            async with asyncio.timeout(RENEW_S):
                await self._workers.renew()
        except TimeoutError:
            reason = f"its workers hold requests that have not ended in {RENEW_S:g} s: the storage hangs"
            raise DeviceError(f"{reason}; its processes stay until it is asked again") from None
        await self._dispatcher.renew()

    @property
    def parts(self) -> KeptParts:
        """What the dispatcher keeps, should this process die."""
        return self._dispatcher.parts

    def _hear(self, message: Report | WorkersWanted) -> None:
        if isinstance(message, WorkersWanted):
            self._workers.want(message.count)
        else:
            self._report(message)

    def _told(self) -> Sent:
        return self._model.dispatcher_setup(self._workers.up_messages())

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._has_failed.set()
        self.kill()

    async def wait_failure(self) -> NoReturn:
        """Raise `ProcessesFailed` once they cannot go on."""
        await self._has_failed.wait()
        raise ProcessesFailed(self._failure)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by role."""
        return {role: child.pid for role, child in self._children().items()}

    def _children(self) -> dict[str, Child[None] | Child[FromDispatcher]]:
        children: dict[str, Child[None] | Child[FromDispatcher]] = {
            f"worker {index}": child for index, child in self._workers.children.items()
        }
        if self._dispatcher.child is not None:
            children["dispatcher"] = self._dispatcher.child
        return children

    def workers_up(self) -> int:
        """How many workers there are now."""
        return len(self._workers.children)

    # Messages

    async def ask(
        self,
        make_message: Callable[[int], ToDispatcher],
        fds: Sequence[int] = (),
        settle: Callable[[bool], None] = lambda is_done: None,
        request_id: int | None = None,
    ) -> int:
        """Ask the dispatcher, whichever process it is meanwhile (see `DispatcherLink.ask`)."""
        return await self._dispatcher.link.ask(make_message, fds, settle, request_id)

    def request(
        self,
        make_message: Callable[[int], ToDispatcher],
        fds: Sequence[int] = (),
        settle: Callable[[bool], None] = lambda is_done: None,
        request_id: int | None = None,
    ) -> "asyncio.Future[int]":
        """As `ask`, to be waited for later, or not at all (see `DispatcherLink.request`)."""
        return self._dispatcher.link.request(make_message, fds, settle, request_id)

    def wait(self, answer: "asyncio.Future[int]") -> Coroutine[Any, Any, int]:
        """As `DispatcherLink.wait`. No frame here keeps the answer: its error would keep the frame."""
        return self._dispatcher.link.wait(answer)

    def tell_dispatcher(self, message: ToDispatcher) -> None:
        """Send without an answer (see `DispatcherLink.tell`)."""
        self._dispatcher.link.tell(message)

    def wake_dispatcher(self) -> None:
        """Make the dispatcher look around, at its limits for example."""
        self._dispatcher.link.wake()

    def retell_dispatcher(self) -> None:
        """The dispatcher may know a part of what the model says otherwise: put another in its place."""
        self._dispatcher.retell()

    def tell_workers(self, message: ToWorker, fds: tuple[int, ...] = ()) -> None:
        """Send to every worker; one that hangs in a system call reads it later."""
        self._workers.tell(message, fds)

    def note_storage(self) -> None:
        """Have it kept how the storage is open now."""
        if self._dispatcher.keeper is not None:
            self._dispatcher.keeper.note_storage()

    async def change_storage(self, storage: OpenOverlay, fds: Mapping[str, int]) -> None:
        """Have all of them go on with other storage, which is this process's already; nothing is in flight.

        `fds` are those that they may lack. Raises `DeviceError`.
        """
        self._model.epoch += 1
        self._model.has_changed_storage = True
        self.note_storage()
        data, names = encode_message(storage), list(fds)
        message = ChangeStorage(0, self._model.epoch, data, names)
        for worker in self._workers.up():
            packed, parcels = pack_fds(list(fds.values()))
            worker.tell(message, tuple(packed))
            for fd in parcels:
                os.close(fd)
        crash_point("layers: workers told")
        packed, parcels = pack_fds(list(fds.values()))
        try:
            await self.ask(lambda request_id: msgspec.structs.replace(message, request_id=request_id), packed)
        finally:
            for fd in parcels:
                os.close(fd)

    @property
    def workers_have_room(self) -> bool:
        """Whether all workers have read most of what they were told."""
        return self._workers.have_room

    # Number of workers

    @property
    def worker_count(self) -> int:
        """How many workers there may be; they come when there is work, and go when there is none."""
        return self._workers.limit

    async def set_worker_count(self, count: int) -> None:
        """Have at most so many workers; returns when others have ended.

        A worker that is to end gets no more requests and finishes those that it holds.
        """
        await self._workers.set_limit(count)

    def note_queues(self) -> None:
        """A queue starts: a backend may want a worker from then on."""
        self._workers.note_queues()

    # End

    async def stop(self) -> None:
        """End all of them; nothing is in flight, or they were killed."""
        self._dispatcher.stop()
        self._workers.stop()
        try:
            await asyncio.wait_for(self._wait_end(), STOP_TIMEOUT_S)
        except TimeoutError:
            _log.warning("children do not end when asked to: %s; killing them", self.pids)
            self.kill()
            await self._wait_end()
        self._workers.close()
        self._dispatcher.close()

    def close(self) -> None:
        """Forget them once they have ended: they hold the drive, and it holds them."""
        del self._workers, self._dispatcher, self._report

    async def _wait_end(self) -> None:
        for child in self._children().values():
            await child.ended.wait()

    def kill(self) -> None:
        """End all of them at once. Requests in flight stay in the in-flight records."""
        self._dispatcher.kill()
        self._workers.kill()
