"""The supervisor: the control plane of one engine, never in the data path.

It owns the child processes, the state segment and what they have been told (`EngineModel`), and is the
`Device` that a vhost-user session drives. A child that dies is replaced: its successor is told everything
again and goes on from shared memory.
"""

import asyncio
import logging
import os
import time
from typing import Any

from ringblk.engine.base.open_files import mem_slot_count
from ringblk.engine.devices.block_device import BlockDevice
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.devices.features import F_EVENT_IDX
from ringblk.engine.devices.io_plan import IoPlan
from ringblk.engine.devices.published_device import PublishedDevice
from ringblk.engine.devices.vring import MAX_QUEUE_SIZE, Vring
from ringblk.engine.dispatcher.dispatcher import DispatcherSetup
from ringblk.engine.dispatcher.messages import (
    Answer,
    EnableQueue,
    FromDispatcher,
    Recover,
    RegionsUnused,
    SetInflight,
    SetQueueFds,
    StopQueue,
    WorkerDown,
    WorkerUp,
)
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.supervisor.child import describe_end, was_own_fault
from ringblk.engine.supervisor.dispatcher_link import DispatcherGone, DispatcherLink
from ringblk.engine.supervisor.dispatcher_process import DispatcherProcess
from ringblk.engine.supervisor.dispatcher_reports import DispatcherReports
from ringblk.engine.supervisor.engine_model import EngineModel, ServedQueue, admit_inflight, was_inflight_used
from ringblk.engine.supervisor.live_changes import LiveChanges
from ringblk.engine.supervisor.region_changes import RegionChanges
from ringblk.engine.supervisor.running_settings import RunningSettings
from ringblk.engine.supervisor.workforce import Workforce
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.queues.inflight_region import make_inflight_region, queue_region_bytes
from ringblk.shm.rates.limit import RateLimit
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.process.messages import Stop
from ringblk.workers.sandbox.sandbox import Sandbox

_log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0
"""How long children may take to end once told to; then they are killed."""


class EngineFailed(Exception):  # noqa: N818
    """The engine cannot go on; the message says why. In-flight records are left for a successor."""


class Supervisor:
    """One engine: its processes, and the device that they make."""

    def __init__(
        self,
        config: EngineConfig,
        device: BlockDevice,
        backend: NativeBackend,
        state: StateSegment,
        rate_limit: RateLimit,
        sandbox: Sandbox,
        inherited_fds: set[int],
        plan: IoPlan,
    ) -> None:
        """`inherited_fds` is what the children keep open: the backend's and the segments'."""
        self._config = config
        self._device = device
        self._backend = backend
        self._state = state
        self._rate_limit = rate_limit
        self._model = EngineModel()
        self.reports = DispatcherReports(self._model)
        self._plan = plan
        self._sandbox = sandbox
        self._dispatcher = DispatcherProcess(
            state, self._plan.uses_dispatcher_uring, inherited_fds, self._dispatcher_died, self._hear
        )
        self._link = DispatcherLink(state, self._dispatcher.eventfd)
        self._drive_id = config.drive_id.encode()
        self._workers = Workforce(
            state,
            backend,
            self._drive_id,
            self._model,
            self._dispatcher.eventfd,
            lambda: inherited_fds,
            self._worker_died,
            uses_uring=self._plan.uses_worker_uring,
            sandbox=sandbox,
        )
        self._regions = RegionChanges(state, self._model, self._link, self._workers, self._dispatcher)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._all_ended = asyncio.Event()
        self.published = PublishedDevice(device, state)
        self._was_inflight_used = False
        self.changes = LiveChanges(
            device, backend, state, self._model, self._link, self._workers, self.published
        )
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set with `EngineFailed` when the engine cannot go on."""

    def start(self, settings: RunningSettings) -> None:
        """Start all children, with what an earlier engine of this drive was set to while it ran.

        They keep open what the backend opened, the segment and their channels.
        """
        self._state.set_engine(
            self._config.drive_name, os.getpid(), self._config.num_queues, time.monotonic_ns()
        )
        self.changes.go_on_with(settings)
        if self._plan.uses_workers:
            self._workers.wanted_count = settings.workers or self._config.workers
            self._model.worker_eventfds.update(self._workers.start_all())
        self._start_dispatcher(own_fault=False)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by role."""
        pids = {f"worker {index}": pid for index, pid in self._workers.pids.items()}
        if self._dispatcher.pid is not None:
            pids["dispatcher"] = self._dispatcher.pid
        return pids

    def set_front_end(self, pid: int | None) -> None:
        """This process is served from now on, if it can be told."""
        self._model.memory_advice.front_end_pid = pid

    async def stop(self) -> None:
        """End all children; the session has been reset, so nothing is in flight."""
        self._is_stopping = True
        self._link.tell(Stop())
        self._workers.stop()
        self._note_end()
        try:
            await asyncio.wait_for(self._all_ended.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            _log.warning("children do not end when asked to: %s; killing them", self.pids)
            self.kill()
            await self._all_ended.wait()
        for task in self._tasks:
            task.cancel()
        self._model.forget_inflight()
        for region_index in list(self._model.regions):
            self._model.forget_region(region_index)
        self._workers.close()
        self._dispatcher.close()

    def kill(self) -> None:
        """End all children at once. Requests in flight stay in the in-flight records."""
        self._is_stopping = True
        self._link.close()
        self._regions.cancel()
        self._workers.kill()
        self._dispatcher.kill()

    # Children

    def _start_dispatcher(self, own_fault: bool, *, is_restart: bool = False) -> None:
        """Start a dispatcher; `own_fault` says how its predecessor ended."""
        child = self._dispatcher.start(
            lambda uring: DispatcherSetup(
                state=self._state,
                backend=self._backend,
                drive_id=self._drive_id,
                own_eventfd=self._dispatcher.eventfd,
                uring=uring,
                inline_limit_ns=self._plan.inline_limit_ns,
                poll_ns=self._config.poll_us * 1000,
                chain_limit=self._config.queue_size,
                rate_limit=self._rate_limit,
                is_rate_shared=self._config.rate_group is not None,
                sandbox=self._sandbox,
            ),
            is_restart=is_restart,
        )
        self._link.connect(child, self._model.dispatcher_setup(), Recover(own_fault))

    def _hear(self, message: FromDispatcher) -> None:
        match message:
            case Answer():
                if message.error and message.request_id == 0:
                    self._fail(f"a new dispatcher cannot go on: {message.error}")
                self._link.take_answer(message)
            case RegionsUnused():
                self._regions.note_unused(message.region_indexes)
            case _:
                self.reports.take(message)

    def _dispatcher_died(self, status: int) -> None:
        self._link.disconnect()
        if self._is_stopping:
            self._note_end()
            return
        _log.warning("the dispatcher died: %s; starting another", describe_end(status))
        own_fault = was_own_fault(status)
        count = self._done_count()
        if not self._dispatcher.limit.allows(count, count, own_fault):
            self._fail("the dispatcher dies again and again without completing a request")
            return
        self._spawn(self._replace_dispatcher(own_fault))

    async def _replace_dispatcher(self, own_fault: bool) -> None:
        """It was reaped: nothing of its work may land any more when the next one begins."""
        await self._dispatcher.fence()
        if self._is_stopping:
            return
        try:
            self._start_dispatcher(own_fault, is_restart=True)
        except OSError as error:
            self._fail(f"cannot start another dispatcher: {error}")

    def _done_count(self) -> int:
        """Requests that this engine has completed."""
        return sum(self._state.used_count(index) for index in range(self._config.num_queues))

    def _worker_died(self, worker_index: int, status: int) -> None:
        self._model.worker_eventfds.pop(worker_index, None)
        if self._is_stopping:
            self._note_end()
            return
        if self._workers.is_retiring(worker_index) and status == 0:
            self._spawn(self._replace_worker(worker_index, own_fault=False))
            return
        _log.warning("worker %d died: %s; starting another", worker_index, describe_end(status))
        if not self._workers.may_restart(worker_index, status, self._done_count()):
            self._fail(f"worker {worker_index} dies again and again without completing a request")
            return
        self._spawn(self._replace_worker(worker_index, was_own_fault(status)))

    async def _replace_worker(self, worker_index: int, own_fault: bool) -> None:
        """It was reaped: have its work done elsewhere, and only then let another use its rings."""
        try:
            await self._workers.fence(worker_index)
            await self._link.ask(lambda request_id: WorkerDown(request_id, worker_index, own_fault))
            if self._is_stopping:
                return
            if self._workers.is_retiring(worker_index):
                self._workers.finish_retirement(worker_index)
                return
            eventfd = self._workers.start(worker_index, is_restart=True)
        except DispatcherGone:
            return
        except (OSError, DeviceError) as error:
            self._fail(f"cannot put another in the place of worker {worker_index}: {error}")
            return
        self._model.worker_eventfds[worker_index] = eventfd
        self._link.tell(WorkerUp(worker_index), [eventfd])
        crash_point("supervisor: worker replaced")

    def _note_end(self) -> None:
        if self._dispatcher.pid is None and not self._workers.pids:
            self._all_ended.set()

    def _fail(self, reason: str) -> None:
        if not self.failure.done():
            self.failure.set_exception(EngineFailed(reason))
        self.kill()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The device, as a session drives it

    @property
    def num_queues(self) -> int:
        """How many virtqueues there are."""
        return self._device.num_queues

    @property
    def max_mem_slots(self) -> int:
        """How many memory regions may be added one by one."""
        return mem_slot_count(self._workers.wanted_count, self._config.num_queues)

    @property
    def device_features(self) -> int:
        """The virtio feature bits on offer."""
        return self._device.device_features

    def set_features(self, features: int) -> None:
        """The driver has accepted these features."""
        self._device.set_features(features)
        self.published.publish()

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Part of the config space."""
        return self._device.read_config(offset_bytes, size_bytes)

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        """A write by the driver. Raises `ConfigRefused`."""
        self._device.write_config(offset_bytes, data)
        self.published.publish()

    async def add_region(self, region: MemoryRegion, fd: int) -> None:
        """Map a region in every process. Raises `DeviceError`."""
        await self._regions.change([(region, fd)], dropped=[])

    async def remove_region(self, region: MemoryRegion) -> None:
        """Unmap a region; returns when no request uses it any more."""
        dropped = [
            index
            for index, mapped in self._model.regions.items()
            if mapped.is_current and mapped.message.region == region
        ]
        for unused in await self._regions.change([], dropped):
            await unused

    async def replace_regions(self, regions: list[tuple[MemoryRegion, int]]) -> None:
        """Put these regions in place of all others, which stay mapped for requests in flight."""
        current = [index for index, mapped in self._model.regions.items() if mapped.is_current]
        await self._regions.change(regions, current)

    async def start_queue(self, vring: Vring) -> None:
        """Begin to process a ring. Raises `DeviceError`."""
        if self._model.inflight is None:
            await self._use_own_inflight()
        self._model.check_ring(vring)
        if not self._device.begin_ring(is_in_use=vring.base != 0 or self._was_inflight_used):
            _log.warning(
                "nothing is known of the write cache that this driver had before: every write is made stable,"
                " until the driver turns the cache on or begins anew"
            )
        self.published.publish()
        queue = ServedQueue(vring, bool(self._device.features & F_EVENT_IDX))
        # Known before it is asked for: when this call is given up half-way, `reset` must stop the queue.
        self._model.queues[vring.queue_index] = queue
        resumed = await self._link.ask(
            queue.start_message,
            queue.fds().present(),
            lambda is_done: self._model.settle_start(queue, is_done),
        )
        if resumed:
            _log.info("queue %d goes on with %d requests of an earlier engine", vring.queue_index, resumed)

    async def update_fds(self, vring: Vring) -> None:
        """A running ring's kick, call or err fd has been replaced."""
        queue = self._model.queues[vring.queue_index]
        queue.vring = vring
        await self._link.ask(
            lambda request_id: SetQueueFds(request_id, vring.queue_index, queue.fds().presence()),
            queue.fds().present(),
        )

    async def set_enabled(self, queue_index: int, enabled: bool) -> None:
        """Let a running ring rest, or go on."""
        self._model.queues[queue_index].is_enabled = enabled
        await self._link.ask(lambda request_id: EnableQueue(request_id, queue_index, enabled))

    async def stop_queue(self, queue_index: int) -> int:
        """Stop a ring, wait for what is in flight, and give back `next_avail`."""
        return await self._link.ask(
            lambda request_id: StopQueue(request_id, queue_index),
            settle=lambda is_done: self._settle_stop(queue_index, is_done),
        )

    def _settle_stop(self, queue_index: int, is_done: bool) -> None:
        self._model.forget_queue(queue_index, is_done)
        if not self._model.queues:
            self._device.end_rings()
            self._was_inflight_used = False

    async def get_inflight(self, num_queues: int, queue_size: int) -> tuple[int, int, int]:
        """Make an in-flight region; returns an fd for the caller, its size and its offset."""
        fd, size_bytes = make_inflight_region(num_queues, queue_size)
        await self._use_inflight(fd, size_bytes, 0, queue_size)
        return os.dup(fd), size_bytes, 0

    async def set_inflight(
        self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int, num_queues: int, queue_size: int
    ) -> None:
        """Use an in-flight region from an earlier back end."""
        admit_inflight(fd, mmap_size_bytes, mmap_offset_bytes, queue_region_bytes(queue_size) * num_queues)
        self._was_inflight_used = was_inflight_used(fd, mmap_offset_bytes, queue_size, num_queues)
        await self._use_inflight(fd, mmap_size_bytes, mmap_offset_bytes, queue_size)

    async def _use_own_inflight(self) -> None:
        """The front end keeps no in-flight region: keep one for the next dispatcher."""
        fd, size_bytes = make_inflight_region(self.num_queues, MAX_QUEUE_SIZE)
        await self._use_inflight(fd, size_bytes, 0, MAX_QUEUE_SIZE)

    async def _use_inflight(self, fd: int, size_bytes: int, offset_bytes: int, queue_size: int) -> None:
        self._model.forget_inflight()
        self._model.inflight = (SetInflight(0, size_bytes, offset_bytes, queue_size), fd)
        await self._link.ask(
            lambda request_id: SetInflight(request_id, size_bytes, offset_bytes, queue_size),
            [fd],
            lambda is_done: None if is_done else self._model.forget_inflight(),
        )

    async def reset(self) -> None:
        """The front end is gone: stop and drain all rings, forget regions, features, in-flight region."""
        try:
            for queue_index in list(self._model.queues):
                await self.stop_queue(queue_index)
            await self.replace_regions([])
            await self._regions.wait_unused()
        except DispatcherGone:
            return
        self._model.forget_inflight()
        self._was_inflight_used = False
        self.set_features(0)
