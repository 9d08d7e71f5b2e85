"""A device for fuzzing the session: it checks and maps memory, rings and in-flight records as an engine.

Everything happens in this process. Beside what the engine checks, it asserts what a session owes to its
device (engine/devices/device.py): order of calls, fds that are open, queues that run once.
"""

import mmap
import os

from ringblk.engine.devices.block_device import BlockDevice
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.devices.vring import Vring
from ringblk.engine.dispatcher.messages import SetInflight, SetLog
from ringblk.engine.drives.inflight_region import admit_inflight
from ringblk.engine.supervisor.drive_model import DriveModel, SharedRegion, StartedQueue
from ringblk.shm.layout.sizes import queue_size_fault
from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.memory.region import MemoryRegion, RegionError
from ringblk.shm.queues.errors import InflightError, RingError
from ringblk.shm.queues.inflight_region import make_inflight_region, queue_region_bytes
from ringblk.shm.queues.split.virtqueue import SplitVirtqueue

CHAIN_LIMIT = 128
MAX_POPS = 64


class MappingDevice:
    """One engine's control plane without its processes."""

    window_bytes = 0
    moved_state = None

    def __init__(self, config: BlockDevice) -> None:
        self.config = config
        self.num_queues = config.num_queues
        self.max_mem_slots = 32  # refused in a short input as well
        self.model = DriveModel()
        self.memory = GuestMemory()
        self.queues: dict[int, SplitVirtqueue] = {}
        self.is_reset = False

    @property
    def device_features(self) -> int:
        return self.config.device_features

    def set_features(self, features: int) -> None:
        assert not features & ~self.device_features, "features that were never offered"
        self.config.set_features(features)

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        data = self.config.read_config(offset_bytes, size_bytes)
        assert len(data) == size_bytes
        return data

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        self.config.write_config(offset_bytes, data)

    async def set_backend_channel(self, fd: int, *, is_legacy: bool) -> None:
        raise AssertionError("a device without a window has no use for it")

    async def add_region(self, region: MemoryRegion, fd: int) -> None:
        self._change_regions([(region, fd)], [])

    async def remove_region(self, region: MemoryRegion) -> None:
        self._change_regions([], [index for index in self._current() if self._region(index) == region])

    async def replace_regions(self, regions: list[tuple[MemoryRegion, int]]) -> None:
        self._change_regions(regions, self._current())

    def _current(self) -> list[int]:
        return list(self.model.regions)

    def _region(self, region_index: int) -> MemoryRegion:
        return self.model.regions[region_index].message.region

    def _change_regions(self, regions: list[tuple[MemoryRegion, int]], dropped: list[int]) -> None:
        added = self.model.admit_regions(regions, dropped)
        for region_index in dropped:
            self.memory.remove(region_index)
        try:
            for mapped in added:
                self._map(mapped)
            for queue in self.queues.values():
                queue.remap()
        except (RegionError, OSError, ValueError) as error:
            raise AssertionError("what was admitted cannot be mapped") from error
        for region_index in dropped:
            self.memory.unmap(region_index)
            self.model.forget_region(region_index)

    def _map(self, mapped: SharedRegion) -> None:
        self.memory.add(mapped.message.region_index, mapped.message.region, mapped.fd, mapped.message.epoch)

    async def start_queue(self, vring: Vring) -> None:
        size = vring.queue_size
        assert vring.queue_index not in self.queues, "a queue is started twice"
        assert 0 <= vring.queue_index < self.num_queues
        assert queue_size_fault(size) is None
        assert 0 <= vring.base <= 0xFFFF
        check_fds(vring)
        try:
            virtqueue = SplitVirtqueue(
                vring.queue_index,
                size,
                self.memory,
                vring.desc_uva,
                vring.avail_uva,
                vring.used_uva,
                False,
                CHAIN_LIMIT,
            )
            self._resume(vring, virtqueue)
        except (RingError, InflightError, OSError, ValueError) as error:
            raise DeviceError(str(error)) from error
        self.queues[vring.queue_index] = virtqueue
        self.model.queues[vring.queue_index] = StartedQueue(vring, False)
        for _ in range(MAX_POPS):
            if (popped := virtqueue.pop()) is None:
                break
            self._check_ranges(popped[2] + popped[3])
            virtqueue.push([(popped[0], 0)])

    def _resume(self, vring: Vring, virtqueue: SplitVirtqueue) -> None:
        if self.model.inflight is None:
            virtqueue.resume(bytearray(queue_region_bytes(vring.queue_size)), 0, vring.base)
            return
        message, fd = self.model.inflight
        if vring.queue_size > message.queue_size:
            raise InflightError("the in-flight region is for smaller queues")
        before = message.mmap_offset_bytes % mmap.ALLOCATIONGRANULARITY
        start = message.mmap_offset_bytes - before
        with mmap.mmap(fd, message.mmap_size_bytes + before, offset=start) as mapping:
            view = bytearray(mapping)
        place = before + vring.queue_index * queue_region_bytes(message.queue_size)
        virtqueue.resume(view, place, vring.base)

    def _check_ranges(self, ranges: list[tuple[int, int, int]]) -> None:
        for region_index, offset_bytes, length_bytes in ranges:
            assert offset_bytes + length_bytes <= self._region(region_index).size_bytes, (
                "outside of its region"
            )

    async def set_log(self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int) -> None:
        self.model.admit_log(SetLog(0, mmap_size_bytes, mmap_offset_bytes), fd)

    async def set_logging(self, enabled: bool) -> None:
        assert enabled != self.model.is_logging, "logging is switched to what it is"
        self.model.is_logging = enabled

    async def set_queue_log(self, vring: Vring) -> None:
        self.model.queues[vring.queue_index].vring = vring
        self.queues[vring.queue_index].log_at(vring.log_gpa)

    async def update_fds(self, vring: Vring) -> None:
        assert vring.queue_index in self.queues
        check_fds(vring)

    async def set_enabled(self, queue_index: int, enabled: bool) -> None:
        assert queue_index in self.queues

    async def stop_queue(self, queue_index: int, *, is_suspended: bool = False) -> int:
        queue = self.queues.pop(queue_index)
        self.model.forget_queue(queue_index, True)
        return queue.next_avail

    async def get_inflight(self, num_queues: int, queue_size: int) -> tuple[int, int, int]:
        fd, size_bytes = make_inflight_region(num_queues, queue_size)
        await self.set_inflight(fd, size_bytes, 0, num_queues, queue_size)
        return os.dup(fd), size_bytes, 0

    async def set_inflight(
        self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int, num_queues: int, queue_size: int
    ) -> None:
        assert not self.queues, "the in-flight region changes under a running queue"
        admit_inflight(fd, mmap_size_bytes, mmap_offset_bytes, queue_region_bytes(queue_size) * num_queues)
        self.model.forget_inflight()
        self.model.inflight = (SetInflight(0, mmap_size_bytes, mmap_offset_bytes, queue_size), fd)

    async def reset(self) -> None:
        for queue_index in list(self.queues):
            await self.stop_queue(queue_index)
        self._change_regions([], self._current())
        self.model.forget_inflight()
        self.model.forget_log()
        self.model.is_logging = False
        self.set_features(0)
        self.is_reset = True


def check_fds(vring: Vring) -> None:
    for fd in (vring.kick_fd, vring.call_fd, vring.err_fd):
        if fd is not None:
            os.fstat(fd)
