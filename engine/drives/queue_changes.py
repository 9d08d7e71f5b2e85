"""Queues as they start, change and stop, in the drive's processes and in all else that depends on them."""

import asyncio
import logging

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.devices.features import F_EVENT_IDX
from ringblk.engine.devices.vring import Vring
from ringblk.engine.dispatcher.messages import EnableQueue, SetQueueFds, StopQueue
from ringblk.engine.drives.drive_keeper import DriveKeeper
from ringblk.engine.drives.image_turns import ImageTurns
from ringblk.engine.drives.inflight_changes import InflightChanges
from ringblk.engine.drives.memory_advice import MemoryAdvice
from ringblk.engine.drives.numbered_requests import NumberedRequests
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.drives.publication import Publication
from ringblk.engine.supervisor.drive_model import DriveModel, StartedQueue
from ringblk.engine.supervisor.drive_processes import DriveProcesses
from ringblk.shm.state.segment import StateSegment

LOOK_S = 0.1
"""How long a queue runs before its front end is looked at, as its guest does not wait for that any more."""

_log = logging.getLogger(__name__)


class QueueChanges:
    """One method for each change; the session makes one at a time."""

    def __init__(
        self,
        plan: DrivePlan,
        state: StateSegment,
        model: DriveModel,
        processes: DriveProcesses,
        requests: NumberedRequests,
        inflight: InflightChanges,
        keeper: DriveKeeper,
        publication: Publication,
        memory_advice: MemoryAdvice,
        turns: ImageTurns,
    ) -> None:
        self._device = plan.device
        self._turns = turns
        self._state = state
        self._model = model
        self._processes = processes
        self._requests = requests
        self._inflight = inflight
        self._keeper = keeper
        self._publication = publication
        self._memory_advice = memory_advice

    async def start(self, vring: Vring) -> None:
        """Begin to process a ring. Raises `DeviceError`."""
        if self._model.inflight is None:
            self._inflight.use_own(self._device.num_queues)
            await self._keeper.commit_again()
        self._model.check_ring(vring)
        await self._turns.begin()
        self._open_slots()  # as long as there was no room for them when the front end came
        self._memory_advice.check(vring, [region for region, _ in self._model.current_regions()])
        if not self._device.begin_ring(is_in_use=vring.base != 0 or self._inflight.was_used):
            _log.warning(
                "nothing is known of the write cache that this driver had before: every write is made stable,"
                " until the driver turns the cache on or begins anew"
            )
        self._publication.publish()
        queue = StartedQueue(vring, bool(self._device.features & F_EVENT_IDX))
        # Known before it is asked for: when this call is given up half-way, a reset must stop the queue.
        self._model.queues[vring.queue_index] = queue
        self._processes.note_queues()
        resumed = await self._requests.ask(
            queue.start_message,
            queue.fds().present(),
            lambda is_done: self._settle_start(queue, is_done),
        )
        if resumed:
            _log.info("queue %d goes on with %d requests of an earlier engine", vring.queue_index, resumed)

    def _open_slots(self) -> None:
        try:
            self._state.open_slots()
        except OSError as error:
            raise DeviceError(f"no queue can start: {error.strerror or error}") from error

    def _settle_start(self, queue: StartedQueue, is_done: bool) -> None:
        self._model.settle_start(queue, is_done)
        if is_done:
            self._memory_advice.forget()
            asyncio.get_running_loop().call_later(LOOK_S, self._look_for_copies)

    def _look_for_copies(self) -> None:
        self._memory_advice.look_for_copies(self._model.current_regions())

    async def update_fds(self, vring: Vring) -> None:
        """A running ring's kick, call or err fd has been replaced."""
        queue = self._model.queues[vring.queue_index]
        queue.vring = vring
        await self._requests.ask(
            lambda request_id: SetQueueFds(request_id, vring.queue_index, queue.fds().presence()),
            queue.fds().present(),
        )

    async def set_enabled(self, queue_index: int, enabled: bool) -> None:
        """Let a running ring rest, or go on."""
        self._model.queues[queue_index].is_enabled = enabled
        await self._requests.ask(lambda request_id: EnableQueue(request_id, queue_index, enabled))

    async def stop(self, queue_index: int, *, is_suspended: bool) -> int:
        """Stop a ring, and give back `next_avail` once nothing is in flight any more.

        `is_suspended`: at once. What is in flight is for whoever has the in-flight region next; where nobody
        has it, or nothing keeps that one waiting until all has ended here, it is waited for as well.
        """
        suspends = is_suspended and self._inflight.is_shared and self._turns.can_suspend()
        self._model.has_let_go |= suspends
        next_avail = await self._requests.ask(
            lambda request_id: StopQueue(request_id, queue_index, suspends),
            settle=lambda is_done: self._settle_stop(queue_index, is_done),
        )
        if not self._model.queues:
            await self._turns.end(is_moving=self._model.log_in_use is not None)
        return next_avail

    def _settle_stop(self, queue_index: int, is_done: bool) -> None:
        self._model.forget_queue(queue_index, is_done)
        if not self._model.queues:
            self._device.end_rings()
            self._inflight.was_used = False
