"""A device that does nothing but note what a session asks of it. It owns, and closes, what a device owns."""

import asyncio
import os
from typing import Any

from ringblk.engine.devices.device import ConfigRefused, DeviceError, MovedState
from ringblk.engine.devices.features import F_EVENT_IDX, F_VERSION_1
from ringblk.engine.devices.vring import Vring
from ringblk.shm.memory.region import MemoryRegion


class FakeDevice:
    def __init__(self, num_queues: int = 4) -> None:
        self.num_queues = num_queues
        self.max_mem_slots = 509
        self.window_bytes = 0
        self.moved_state: MovedState | None = None
        self.device_features = F_VERSION_1 | F_EVENT_IDX
        self.calls: list[tuple[Any, ...]] = []
        self.refuse: set[str] = set()
        self.next_avail = 7
        self.drained = asyncio.Event()
        self.drained.set()
        self.stopping = asyncio.Event()
        self.gave_up = False
        self.received_fds: list[int] = []

    def _note(self, name: str, *values: object, fds: tuple[int, ...] = ()) -> None:
        for fd in fds:
            os.fstat(fd)
            os.close(fd)
        if name in self.refuse:
            raise DeviceError(f"{name} cannot be done")
        self.calls.append((name, *values))

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def set_features(self, features: int) -> None:
        self._note("set_features", features)

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        if "read_config" in self.refuse:
            raise ConfigRefused("no config")
        return bytes((offset_bytes + index) & 0xFF for index in range(size_bytes))

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        if offset_bytes != 32:
            raise ConfigRefused(f"offset {offset_bytes} is read-only")
        self._note("write_config", offset_bytes, data)

    async def add_region(self, region: MemoryRegion, fd: int) -> None:
        self._note("add_region", region, fds=(fd,))

    async def set_backend_channel(self, fd: int, *, is_legacy: bool) -> None:
        self._note("set_backend_channel", is_legacy, fds=(fd,))

    async def remove_region(self, region: MemoryRegion) -> None:
        self._note("remove_region", region)

    async def replace_regions(self, regions: list[tuple[MemoryRegion, int]]) -> None:
        self._note("replace_regions", [region for region, _ in regions], fds=tuple(fd for _, fd in regions))

    async def start_queue(self, vring: Vring) -> None:
        for fd in (vring.kick_fd, vring.call_fd, vring.err_fd):
            if fd is not None:
                os.fstat(fd)
        self._note("start_queue", vring)

    async def update_fds(self, vring: Vring) -> None:
        self._note("update_fds", vring)

    async def set_enabled(self, queue_index: int, enabled: bool) -> None:
        self._note("set_enabled", queue_index, enabled)

    async def set_log(self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int) -> None:
        self._note("set_log", mmap_size_bytes, mmap_offset_bytes, fds=(fd,))

    async def set_logging(self, enabled: bool) -> None:
        self._note("set_logging", enabled)

    async def set_queue_log(self, vring: Vring) -> None:
        self._note("set_queue_log", vring.queue_index, vring.log_gpa)

    async def stop_queue(self, queue_index: int, *, is_suspended: bool = False) -> int:
        self.stopping.set()
        try:
            await self.drained.wait()
        except asyncio.CancelledError:
            self.gave_up = True
            raise
        self._note("stop_queue", queue_index)
        return self.next_avail

    async def get_inflight(self, num_queues: int, queue_size: int) -> tuple[int, int, int]:
        self._note("get_inflight", num_queues, queue_size)
        return os.memfd_create("inflight"), 8192, 4096

    async def set_inflight(
        self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int, num_queues: int, queue_size: int
    ) -> None:
        self._note("set_inflight", mmap_size_bytes, mmap_offset_bytes, num_queues, queue_size, fds=(fd,))

    async def reset(self) -> None:
        self._note("reset")
