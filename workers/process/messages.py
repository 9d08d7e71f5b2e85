"""What the supervisor sends a worker; the dispatcher knows some of these messages as well."""

import msgspec

from ringblk.shm.memory.region import MemoryRegion


class MapRegion(msgspec.Struct, frozen=True):
    """A region to be mapped under this index; requests of this epoch use it."""

    region_index: int
    region: MemoryRegion
    epoch: int


class MapRegions(msgspec.Struct, tag=True, frozen=True):
    """Map these regions, whose fds come along, but for those that are mapped."""

    regions: list[MapRegion]
    epoch: int = 0
    """Of the newest region that there was, should it be gone already: requests may carry it."""


class UnmapRegions(msgspec.Struct, tag=True, frozen=True):
    """No request uses these regions any more."""

    region_indexes: list[int]


class KeepRegions(msgspec.Struct, tag=True, frozen=True):
    """Unmap all regions but these, by index and epoch: whoever says so may not know what was said before."""

    epochs: dict[int, int]


class Stop(msgspec.Struct, tag=True, frozen=True):
    """End; nothing is in flight."""


class ChangeStorage(msgspec.Struct, tag=True, frozen=True):
    """The drive's storage is another from now on, for requests of this epoch; none is in flight.

    The descriptors of it that a process may lack come along, in the order of their names.
    """

    request_id: int
    epoch: int
    storage: bytes
    """An `OpenStorage`, encoded: processes that never hear of one need no decoder. Empty: it is known."""
    fd_names: list[str]


ToWorker = MapRegions | UnmapRegions | KeepRegions | ChangeStorage | Stop
