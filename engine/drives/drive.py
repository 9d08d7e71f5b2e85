"""One drive: storage, guest memory and queues, brought together by processes of its own.

It is the `Device` that a vhost-user session drives. It keeps what its session has handed over (the
`DriveModel`: memory, queues, in-flight record) and has its processes told of each change.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ringblk.engine.devices.vring import Vring
from ringblk.engine.dispatcher.messages import RegionsUnused, Report, SetBackendChannel
from ringblk.engine.drives.adopted_drive import AdoptedDrive
from ringblk.engine.drives.changes import DriveChanges
from ringblk.engine.drives.current_session import CurrentSession
from ringblk.engine.drives.drive_keeper import DriveKeeper
from ringblk.engine.drives.facts import drive_facts, first_line
from ringblk.engine.drives.image_turns import ImageTurns
from ringblk.engine.drives.inflight_changes import InflightChanges
from ringblk.engine.drives.layered_drive import layer_turns_of, layers_of
from ringblk.engine.drives.limits import DriveLimits
from ringblk.engine.drives.log_changes import LogChanges
from ringblk.engine.drives.memory_advice import MemoryAdvice
from ringblk.engine.drives.numbered_requests import NumberedRequests
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.drives.publication import Publication
from ringblk.engine.drives.queue_changes import QueueChanges
from ringblk.engine.drives.region_changes import RegionChanges
from ringblk.engine.drives.reports import GuestReports
from ringblk.engine.drives.running_settings import RunningSettings
from ringblk.engine.drives.settings import DriveSettings
from ringblk.engine.drives.storage_news import StorageNews
from ringblk.engine.supervisor.dispatcher_link import DispatcherGone
from ringblk.engine.supervisor.drive_model import DriveModel
from ringblk.engine.supervisor.drive_processes import DriveProcesses, ProcessesFailed
from ringblk.engine.supervisor.process_setup import ProcessSetup
from ringblk.engine.vhost_user.listener import Listener
from ringblk.engine.vhost_user.session import Session
from ringblk.engine.vhost_user.socket_keeper import SocketKeeper
from ringblk.engine.vhost_user.turn import serve_turn
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.platform.peer import peer_process_id

_log = logging.getLogger(__name__)


class Drive:
    """A drive that is served: `listen`, `start`, `run` until `end` is called, and then `stop` and `close`."""

    def __init__(
        self,
        plan: DrivePlan,
        setup: ProcessSetup,
        limits: DriveLimits,
        taken_over: RunningSettings,
        *,
        goes_on: bool,
        adopted: AdoptedDrive | None = None,
    ) -> None:
        """Make its record, with what is taken over. Raises `ProgramError` where there is no room for it.

        `goes_on`: should the start fail, an engine before has left something for the next attempt. `adopted`
        is what it goes on from where its processes run.
        """
        self.name = plan.name
        self._open_files = plan.open_files
        self.config = setup.config
        self.state = setup.state
        self.limits = limits
        self.facts = drive_facts(plan.config, plan.backend, plan.io, plan.sandbox)
        self.device = device = plan.device
        self.moved_state = plan.kind.moved_state(plan.config, plan.backend)
        self._model = DriveModel()
        worker_count = (taken_over.workers or self.config.workers) if setup.plan.uses_workers else 0
        running = None if adopted is None else adopted.processes
        self.processes = DriveProcesses(setup, self._model, self._hear, worker_count, running)
        self._requests = NumberedRequests(self.processes)
        self._current = CurrentSession()
        self._regions = RegionChanges(
            self.state, self._model, self.processes, self._requests, self._current.end
        )
        self._inflight = InflightChanges(self._model, self._requests)
        self._turns = ImageTurns(plan.hold, self._model, self.processes, self._current.end)
        self._log = LogChanges(self._model, self._requests)
        self._keeper = DriveKeeper(plan, self._model, self._inflight, self._requests, self.processes)
        self._reports = GuestReports(self._model, self._current.end)
        self._memory_advice = MemoryAdvice()
        self.settings = DriveSettings(
            self.config, plan.identity, device, limits, self._model, self.processes, taken_over
        )
        self.publication = Publication(
            plan.name, self.config, plan.identity, device, self.state, self.settings
        )
        self._queues = QueueChanges(
            plan,
            self.state,
            self._model,
            self.processes,
            self._requests,
            self._inflight,
            self._keeper,
            self.publication,
            self._memory_advice,
            self._turns,
        )
        self.changes = DriveChanges(
            plan, self.state, limits, self._model, self.processes, self.settings, self.publication
        )
        self.layers = layers_of(plan, self.processes, self.changes)
        """None: it is no copy-on-write drive."""
        self._turns.layers = layer_turns_of(plan, self.processes, self.changes, self.layers)
        self.news = StorageNews(plan.backend, self.changes)
        self.started_ns = time.monotonic_ns()
        self._listener = plan.inherited
        self._adopted = adopted
        self._resumed: tuple[Session, socket.socket] | None = None
        self._is_to_end = asyncio.Event()
        self._is_succeeded = self._is_removed = False
        self._goes_on = goes_on

    def first_line(self) -> str:
        """What it says of itself at its start."""
        device = self.device
        return first_line(self.config, self.facts, device.capacity_bytes, is_read_only=device.read_only)

    def listen(self, keeper: SocketKeeper) -> None:
        """Open the socket that front ends come to. The keeper has it, too. Raises `ProgramError`."""
        if self._listener is None:
            assert self.config.socket_path is not None  # DriveConfig.check: or a socket was inherited
            self._listener = Listener.at_path(self.config.socket_path, keeper)
        else:
            self._listener.be_kept(keeper)

    def start(self) -> None:
        """Start its processes. Raises `OSError`."""
        self.started_ns = time.monotonic_ns()
        self.state.set_engine(
            self.name, self.config.storage_name, os.getpid(), self.config.virtqueue_count, self.started_ns
        )
        self.state.set_paused(self.settings.is_paused)
        if self._adopted is not None:
            adopted, self._adopted = self._adopted, None
            self._go_on(adopted)
            return
        self.publication.publish()
        self.processes.start()

    def _go_on(self, adopted: AdoptedDrive) -> None:
        """Be where another control plane has ended. Raises `AdoptionFailed` and `OSError`."""
        kept = adopted.kept
        self._open_files.admit(self.name, kept.session.slot_count)
        self._keeper.resume(kept, adopted.parts)
        self._resumed = adopted.resume_session(self, self._keeper)
        if self.window_bytes and (channel_fd := self._resumed[0].channel_fd) is not None:
            self._model.backend_channel = os.dup(channel_fd)
        self._keeper.resume_queues(kept, self._resumed[0].vring)
        self._turns.resume()
        if self.layers is not None:
            self.layers.resume()
        self.publication.publish()
        self.processes.adopt(adopted.processes, adopted.parts)
        adopted.parts.close()

    async def run(self, on_change: Callable[[], None]) -> None:
        """Serve one front end after the other, until told to end or no more can come.

        `on_change` is called when one has come or gone.
        What is in flight then is done before it returns. Raises `ProcessesFailed`; the front end goes on with
        another engine then.
        """
        serving = asyncio.create_task(self._serve(on_change))
        ending = asyncio.create_task(self._is_to_end.wait())
        failing = asyncio.create_task(self.processes.wait_failure())
        self.news.begin(self.tell_size)
        try:
            ends: set[asyncio.Future[Any]] = {serving, ending, failing}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            # A front end that is connected now connects to the next engine.
            has_front_end = self._current.session is not None and self._current.session.has_front_end
            if not failing.done():
                serving.cancel()  # the session that runs drains its rings
                await asyncio.wait({serving, failing}, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                failing.result()
            if not serving.cancelled():
                serving.result()
            self._goes_on = (has_front_end or self._is_succeeded) and not self._is_removed
        except ProcessesFailed:
            self._goes_on = True
            self.kill()
            raise
        finally:
            self.news.end()
            self.stop_listening()
            for task in (serving, ending, failing):
                task.cancel()
            await asyncio.wait({serving})

    async def _serve(self, on_change: Callable[[], None]) -> None:
        listener = self._listener
        assert listener is not None, "listen comes first"
        session, adopted = (None, None) if self._resumed is None else self._resumed
        self._resumed = None
        if session is not None:
            await self._regions.ask_again()
            if self.layers is not None:
                await self.layers.tell_again()
        self._turns.begin_jobs()
        async for connected in listener.connections(adopted):
            if session is None and (reason := self._open_files.admit(self.name)):
                listener.turn_away(connected, reason)
                continue
            self._keeper.when_kept = partial(listener.settle, connected)
            self._current.session, session = session or Session(connected, self, self._keeper), None
            if not self._keeper.is_keeping:
                listener.settle(connected)
            self.state.set_connected(True)
            on_change()
            self._memory_advice.front_end_pid = peer_process_id(connected)
            with contextlib.suppress(OSError):  # a queue that starts says so
                self.state.open_slots()
            try:
                await serve_turn(self._current.session, connected, listener)
            finally:
                self._keeper.when_kept = self._current.session = None
                self.state.set_connected(False)
                self._open_files.leave(self.name, self.processes.workers_up)
                on_change()

    def end(self, *, for_successor: bool = False, is_removed: bool = False) -> None:
        """Have `run` end once what is in flight is done.

        `for_successor`: another engine goes on with it; `is_removed`: none does, whoever is connected.
        """
        if is_removed:
            self._is_removed, self._goes_on = True, False
        self._is_succeeded = self._is_succeeded or for_successor
        self._is_to_end.set()

    @property
    def is_connected(self) -> bool:
        """Whether a front end is served."""
        return self._current.session is not None

    def tell_size(self) -> None:
        """Tell the driver of another size, where its front end takes that."""
        is_told = self._current.session is not None and self._current.session.notify_config_change()
        told = "is told" if is_told else "is not told"
        _log.info("the drive has %d bytes; the driver %s", self.device.capacity_bytes, told)

    async def stop(self) -> None:
        """End its processes; the session has been reset, so nothing is in flight, or they were killed."""
        if self.layers is not None:
            await self.layers.jobs.stop()
        await self.processes.stop()
        self._model.forget_all()

    def kill(self) -> None:
        """End its processes at once. Requests in flight stay in the in-flight records."""
        self.processes.kill()
        self._regions.cancel()

    def stop_listening(self) -> None:
        """No more front ends."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Leave group, record and segment: to another engine that goes on with the drive, or to nobody."""
        self.limits.leave(goes_on=self._goes_on)
        self.publication.close(goes_on=self._goes_on)
        self.state.close()
        self.processes.close()
        if self.layers is not None:
            del self.layers.jobs  # which knows the layers: so all of it is freed now, not some day

    def _hear(self, report: Report) -> None:
        """What the dispatcher sends without being asked."""
        if isinstance(report, RegionsUnused):
            self._regions.note_unused(report.region_indexes)
        else:
            self._reports.take(report)

    # The device, as a session drives it

    @property
    def num_queues(self) -> int:
        """How many virtqueues there are."""
        return self.device.num_queues

    @property
    def max_mem_slots(self) -> int:
        """How many memory regions may be added one by one."""
        return self._open_files.mem_slot_count(self.name)

    @property
    def device_features(self) -> int:
        """The virtio feature bits on offer."""
        return self.device.device_features

    def set_features(self, features: int) -> None:
        """The driver has accepted these features."""
        self.device.set_features(features)
        self.publication.publish()

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Part of the config space."""
        return self.device.read_config(offset_bytes, size_bytes)

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        """A write by the driver. Raises `ConfigRefused`."""
        self.device.write_config(offset_bytes, data)
        self.publication.publish()

    @property
    def window_bytes(self) -> int:
        """How large the device's shared memory is."""
        return self.device.window_bytes

    async def set_backend_channel(self, fd: int, *, is_legacy: bool) -> None:
        """Have files mapped there, on this channel."""
        self._model.forget_backend_channel()
        self._model.backend_channel = fd
        await self._requests.ask(
            lambda request_id: SetBackendChannel(request_id, is_new=True, is_legacy=is_legacy), [fd]
        )

    async def add_region(self, region: MemoryRegion, fd: int) -> None:
        """Map a region in every process. Raises `DeviceError`."""
        await self._regions.change([(region, fd)], dropped=[])

    async def remove_region(self, region: MemoryRegion) -> None:
        """Unmap a region; returns when no request uses it any more."""
        for unused in await self._regions.change([], self._model.region_indexes(region)):
            await unused

    async def replace_regions(self, regions: list[tuple[MemoryRegion, int]]) -> None:
        """Put these regions in place of all others, which stay mapped for requests in flight."""
        await self._regions.change(regions, self._model.region_indexes())

    async def start_queue(self, vring: Vring) -> None:
        """Begin to process a ring. Raises `DeviceError`."""
        await self._queues.start(vring)

    async def update_fds(self, vring: Vring) -> None:
        """A running ring's kick, call or err fd has been replaced."""
        await self._queues.update_fds(vring)

    async def set_enabled(self, queue_index: int, enabled: bool) -> None:
        """Let a running ring rest, or go on."""
        await self._queues.set_enabled(queue_index, enabled)

    async def set_log(self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int) -> None:
        """Have a dirty log, in place of an earlier one. Raises `DeviceError`."""
        await self._log.set_log(fd, mmap_size_bytes, mmap_offset_bytes)

    async def set_logging(self, enabled: bool) -> None:
        """Mark what is written in the dirty log, or stop doing so. Raises `DeviceError`."""
        await self._log.set_logging(enabled)

    async def set_queue_log(self, vring: Vring) -> None:
        """Where writes to a running ring are marked has changed."""
        await self._log.set_queue_log(vring)

    async def stop_queue(self, queue_index: int, *, is_suspended: bool = False) -> int:
        """Stop a ring, and give back `next_avail`: now, or when nothing of it is in flight any more."""
        return await self._queues.stop(queue_index, is_suspended=is_suspended)

    async def get_inflight(self, num_queues: int, queue_size: int) -> tuple[int, int, int]:
        """Make an in-flight region; returns an fd for the caller, its size and its offset."""
        return await self._inflight.get(num_queues, queue_size)

    async def set_inflight(
        self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int, num_queues: int, queue_size: int
    ) -> None:
        """Use an in-flight region from an earlier back end."""
        await self._inflight.set(fd, mmap_size_bytes, mmap_offset_bytes, num_queues, queue_size)

    async def reset(self) -> None:
        """The front end is gone: stop and drain all rings, forget regions, features, in-flight region."""
        try:
            for queue_index in list(self._model.queues):
                await self.stop_queue(queue_index)
            await self.replace_regions([])
            await self._regions.wait_unused()
            await self._log.forget()
            self._model.forget_backend_channel()
            await self._turns.front_end_gone()
        except DispatcherGone:
            return
        self._inflight.forget()
        self.state.close_slots()
        self.set_features(0)
