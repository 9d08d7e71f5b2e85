"""What a drive's processes have been told: enough to set up a new one in the place of any of them."""

import itertools
import mmap
import os
from collections.abc import Sequence

import msgspec

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.devices.queue_fds import QueueFds
from ringblk.engine.devices.vring import Vring
from ringblk.engine.dispatcher.messages import (
    ChangeRegions,
    Pause,
    SetBackendChannel,
    SetInflight,
    SetLog,
    StartQueue,
    ToDispatcher,
)
from ringblk.shm.memory.dirty_log import log_bytes
from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.memory.region import MemoryRegion, RegionError, check_overlap, check_region
from ringblk.shm.sync.channel import copy_fds, in_messages
from ringblk.workers.process.messages import ChangeStorage, MapRegion, MapRegions, ToWorker

REGION_INDEXES = 1024
"""Region indexes there are; GuestMemory enforces it (REGION_LIMIT in shm/layout/region_set.pxd)."""
MAPPED_BYTES_LIMIT = 1 << 45
"""Of guest memory; a quarter of a process's addresses, so that what is admitted can be mapped by all."""

Sent = list[tuple[ToDispatcher, Sequence[int]]]


class SharedRegion(msgspec.Struct):
    """A region that the children have mapped; `fd` is ours. Not current: waits for its last request."""

    message: MapRegion
    fd: int
    is_current: bool = True


class StartedQueue(msgspec.Struct):
    """A queue that the dispatcher was asked to serve. Its fds are the session's."""

    vring: Vring
    event_idx: bool
    is_enabled: bool = True
    is_started: bool = False
    """It has answered that it does."""

    def fds(self) -> QueueFds:
        """Its eventfds."""
        return QueueFds(self.vring.kick_fd, self.vring.call_fd, self.vring.err_fd)

    def start_message(self, request_id: int) -> StartQueue:
        """The message that starts it, now or in a later dispatcher."""
        vring = self.vring
        return StartQueue(
            request_id,
            vring.queue_index,
            vring.queue_size,
            vring.desc_uva,
            vring.avail_uva,
            vring.used_uva,
            vring.base,
            self.event_idx,
            self.is_enabled,
            self.fds().presence(),
            vring.log_gpa,
        )


class DriveModel:
    """Regions, queues, in-flight region, dirty log and pause as the dispatcher knows them."""

    def __init__(self) -> None:
        self.regions: dict[int, SharedRegion] = {}
        self.queues: dict[int, StartedQueue] = {}
        self.inflight: tuple[SetInflight, int] | None = None
        self.log: tuple[SetLog, int] | None = None
        """The dirty log that the front end has given, used while `is_logging`."""
        self.is_logging = False
        self.backend_channel: int | None = None
        """A copy of the channel for messages to the front end, where the device has any."""
        self.pause_holders: set[str] = set()
        """Whoever wants nothing to be popped now."""
        self.has_let_go = False
        """Queues were stopped with requests in flight, which may be under way still."""
        self.epoch = 0
        """Counts regions that were added, and changes of the storage."""
        self.has_changed_storage = False

    def new_region(self, region: MemoryRegion, fd: int) -> SharedRegion:
        """Give a region an index and an epoch. Raises `DeviceError` when all indexes are in use."""
        # One after the other, so that a control plane that does it once more comes to the same.
        in_turn = ((self.epoch + step) % REGION_INDEXES for step in range(REGION_INDEXES))
        free = next((index for index in in_turn if index not in self.regions), None)
        if free is None:
            raise DeviceError("too many memory regions, with those that requests in flight still use")
        self.epoch += 1
        mapped = SharedRegion(MapRegion(free, region, self.epoch), fd)
        self.regions[free] = mapped
        return mapped

    def admit_regions(
        self, regions: Sequence[tuple[MemoryRegion, int]], dropped: Sequence[int]
    ) -> list[SharedRegion]:
        """Check regions against each other, those that stay and the rings, and give them indexes.

        Their fds are closed if one is refused. Raises `DeviceError`.
        """
        table = [mapped.message.region for index, mapped in self.regions.items()
                 if mapped.is_current and index not in dropped]  # fmt: skip
        try:
            self._check_room([region for region, _ in regions])
            for region, fd in regions:
                check_region(region, fd)
                check_overlap(region, table)
                GuestMemory().add(0, region, fd, 0)  # what cannot be mapped must not reach the children
                table.append(region)
            self._check_rings(table)
            if (log := self.log_in_use) is not None:
                check_log(log[0], table)
            if len(self.regions) + len(regions) > REGION_INDEXES:
                raise DeviceError("too many memory regions, with those that requests in flight still use")
            for fd in copy_fds([fd for _, fd in regions]):  # there is room for those that are passed on
                os.close(fd)
        except (RegionError, DeviceError, OSError, OverflowError) as error:
            for _, fd in regions:
                os.close(fd)
            raise DeviceError(str(error)) from error
        return [self.new_region(region, fd) for region, fd in regions]

    def _check_room(self, added: Sequence[MemoryRegion]) -> None:
        """Every process maps all, those too that requests in flight still use. Raises `DeviceError`."""
        retained = (mapped.message.region for mapped in self.regions.values())
        if sum(region.size_bytes for region in (*retained, *added)) > MAPPED_BYTES_LIMIT:
            raise DeviceError(f"memory regions of more than {MAPPED_BYTES_LIMIT >> 40} TiB together")

    def check_ring(self, vring: Vring) -> None:
        """Refuse a ring that overlaps itself or another. Raises `DeviceError`.

        The event words at the ends of the rings are left out: a driver may not know them.
        """
        parts = sorted(
            (start, start + size_bytes, each.queue_index, name)
            for each in (vring, *(queue.vring for queue in self.queues.values()))
            for name, start, size_bytes in each.parts(event_words=False)
        )
        for (_, end, queue_index, name), (start, _, other_index, other_name) in itertools.pairwise(parts):
            if start < end:
                raise DeviceError(
                    f"the {name} of queue {queue_index} and the {other_name} of queue {other_index} overlap"
                )

    def _check_rings(self, regions: Sequence[MemoryRegion]) -> None:
        """Refuse a region table that lacks the rings of a running queue. Raises `DeviceError`."""
        for queue_index, queue in self.queues.items():
            for _, uva, size_bytes in queue.vring.parts():
                end = uva + size_bytes
                if not any(each.uva <= uva and end <= each.uva + each.size_bytes for each in regions):
                    raise DeviceError(f"queue {queue_index} is running on memory that would go away")

    def forget_region(self, region_index: int) -> None:
        """Close what is held for a region that nobody has mapped any more."""
        os.close(self.regions.pop(region_index).fd)

    def current_regions(self) -> list[tuple[MemoryRegion, int]]:
        """The region table, and the fd of each."""
        return [(mapped.message.region, mapped.fd) for mapped in self.regions.values() if mapped.is_current]

    def region_indexes(self, region: MemoryRegion | None = None) -> list[int]:
        """The index of this region of the table; without one, those of all."""
        return [
            index
            for index, mapped in self.regions.items()
            if mapped.is_current and region in (None, mapped.message.region)
        ]

    def settle_start(self, queue: StartedQueue, is_done: bool) -> None:
        """The dispatcher has begun to serve a queue, or refused it."""
        queue.is_started = is_done
        if not is_done:
            self.forget_queue(queue.vring.queue_index, True)

    def forget_queue(self, queue_index: int, is_done: bool) -> None:
        """A queue was stopped (`is_done`)."""
        if is_done:
            self.queues.pop(queue_index, None)

    def forget_inflight(self) -> None:
        """Close the in-flight region."""
        if self.inflight is not None:
            os.close(self.inflight[1])
            self.inflight = None

    def admit_log(self, log: SetLog, fd: int) -> None:
        """Check a dirty log and keep it in place of an earlier one; its fd is closed if it is refused.

        Raises `DeviceError`.
        """
        try:
            if log.mmap_size_bytes == 0 or os.fstat(fd).st_size < log.mmap_offset_bytes + log.mmap_size_bytes:
                raise DeviceError("the dirty log is empty, or shorter than it is said to be")
            check_log(log, [region for region, _ in self.current_regions()])
            mmap.mmap(fd, 1).close()  # what cannot be mapped must not reach the dispatcher
        except (DeviceError, OSError, ValueError) as error:
            os.close(fd)
            raise DeviceError(f"the dirty log cannot be used: {error}") from error
        self.forget_log()
        self.log = (log, fd)

    @property
    def log_in_use(self) -> tuple[SetLog, int] | None:
        """The dirty log in which pages are marked now."""
        return self.log if self.is_logging else None

    def forget_backend_channel(self) -> None:
        """Close it."""
        if self.backend_channel is not None:
            os.close(self.backend_channel)
            self.backend_channel = None

    def forget_log(self) -> None:
        """Close the dirty log."""
        if self.log is not None:
            os.close(self.log[1])
            self.log = None

    def forget_all(self) -> None:
        """Close all that is held; the processes have ended."""
        self.forget_inflight()
        self.forget_log()
        self.forget_backend_channel()
        for region_index in list(self.regions):
            self.forget_region(region_index)

    def dispatcher_setup(self, workers_up: Sent) -> Sent:
        """All that a new dispatcher must be told before it goes on, with what it is told of the workers."""
        everything = list(self.regions.values())
        dropped = [mapped for mapped in everything if not mapped.is_current]
        current = [mapped for mapped in everything if mapped.is_current]
        sent: Sent = []
        if dropped:
            sent.extend(_additions(dropped))
            sent.append((ChangeRegions(0, [mapped.message.region_index for mapped in dropped], []), []))
        if current:
            sent.extend(_additions(current))
        if self.inflight is not None:
            sent.append((self.inflight[0], [self.inflight[1]]))
        if (log := self.log_in_use) is not None:
            sent.append((log[0], [log[1]]))
        if self.backend_channel is not None:
            sent.append((SetBackendChannel(0), [self.backend_channel]))
        sent.extend(
            (queue.start_message(0), queue.fds().present())
            for queue in self.queues.values()
            if queue.is_started
        )
        if self.has_changed_storage:  # a worker may not have heard of it yet
            sent.append((ChangeStorage(0, self.epoch, b"", []), []))
        sent.extend(workers_up)
        if self.pause_holders:
            sent.append((Pause(0), []))
        return sent

    def worker_setup(self) -> list[tuple[ToWorker, Sequence[int]]]:
        """All that a new worker must be told before its first request."""
        parts = in_messages(sorted(self.regions.values(), key=lambda mapped: mapped.message.epoch))
        sent: list[tuple[ToWorker, Sequence[int]]] = []
        for part in parts:
            # The newest epoch comes last: a worker may serve before it has read all.
            epoch = self.epoch if part is parts[-1] else 0
            messages = [mapped.message for mapped in part]
            sent.append((MapRegions(messages, epoch), [mapped.fd for mapped in part]))
        return sent


def check_log(log: SetLog, regions: Sequence[MemoryRegion]) -> None:
    """Refuse a dirty log that has no bit for some page of these regions. Raises `DeviceError`."""
    end_gpa = max((region.gpa + region.size_bytes for region in regions), default=0)
    needed_bytes = log_bytes(end_gpa)
    if log.mmap_size_bytes < needed_bytes:
        raise DeviceError(
            f"the dirty log has {log.mmap_size_bytes} bytes, memory up to {end_gpa:#x} needs {needed_bytes}"
        )


def _additions(regions: list[SharedRegion]) -> Sent:
    return [
        (ChangeRegions(0, [], [mapped.message for mapped in part]), [mapped.fd for mapped in part])
        for part in in_messages(regions)
    ]
