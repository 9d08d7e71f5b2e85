"""What the supervisor sends a worker; the dispatcher knows two of these messages as well."""

import msgspec

from ringblk.shm.memory.region import MemoryRegion


class MapRegion(msgspec.Struct, frozen=True):
    """A region to be mapped under this index; requests of this epoch use it."""

    region_index: int
    region: MemoryRegion
    epoch: int


class MapRegions(msgspec.Struct, tag=True, frozen=True):
    """Map these regions, whose fds come along."""

    regions: list[MapRegion]


class UnmapRegions(msgspec.Struct, tag=True, frozen=True):
    """No request uses these regions any more."""

    region_indexes: list[int]


class Stop(msgspec.Struct, tag=True, frozen=True):
    """End; nothing is in flight."""


ToWorker = MapRegions | UnmapRegions | Stop
