"""The regions of guest memory that a front end has given, kept in step with the device."""

import itertools
from collections.abc import Sequence

import msgspec

from ringblk.engine.devices.device import Device, DeviceError
from ringblk.engine.vhost_user.fd_set import FdSet
from ringblk.shm.memory.region import MemoryRegion


class RegionTable:
    """Checks what the front end says about memory and hands it on. Raises `DeviceError` where it is wrong."""

    def __init__(self, device: Device, slot_count: int, regions: Sequence[MemoryRegion] = ()) -> None:
        self._device = device
        self.slot_count = slot_count
        """How many regions the front end may add (GET_MAX_MEM_SLOTS)."""
        self._regions = list(regions)

    def kept(self) -> tuple[tuple[int, int, int, int], ...]:
        """What is to be kept of them (`KeptSession.regions`)."""
        return tuple(map(msgspec.structs.astuple, self._regions))

    async def add(self, region: MemoryRegion, fds: FdSet) -> None:
        """Add one region; it must not overlap another in guest addresses (VHOST_USER_ADD_MEM_REG)."""
        if len(self._regions) >= self.slot_count:
            raise DeviceError(f"more than {self.slot_count} memory regions")
        _check_overlap([*self._regions, region])
        (fd,) = fds.take()
        await self._device.add_region(region, fd)
        self._regions.append(region)

    async def remove(self, wanted: MemoryRegion) -> None:
        """Remove one region, found by gpa, uva and size; the mmap offset says nothing here (REM_MEM_REG)."""
        for region in self._regions:
            if (region.gpa, region.uva, region.size_bytes) == (wanted.gpa, wanted.uva, wanted.size_bytes):
                await self._device.remove_region(region)
                self._regions.remove(region)
                return
        raise DeviceError(f"no memory region at gpa {wanted.gpa:#x} of {wanted.size_bytes} bytes")

    async def replace(self, regions: tuple[MemoryRegion, ...], fds: FdSet) -> None:
        """Put these regions in place of all others (VHOST_USER_SET_MEM_TABLE)."""
        _check_overlap(list(regions))
        await self._device.replace_regions(list(zip(regions, fds.take(), strict=True)))
        self._regions = list(regions)


def _check_overlap(regions: list[MemoryRegion]) -> None:
    in_order = sorted(regions, key=lambda region: region.gpa)
    for region, following in itertools.pairwise(in_order):
        if region.gpa + region.size_bytes > following.gpa:
            raise DeviceError(f"memory regions at gpa {region.gpa:#x} and {following.gpa:#x} overlap")
