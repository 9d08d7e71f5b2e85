"""The regions of guest memory that a worker has mapped, as its messages say."""

from collections.abc import Sequence

from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.workers.process.messages import (
    ChangeStorage,
    KeepRegions,
    MapRegions,
    ToWorker,
    UnmapRegions,
)


class WorkerRegions:
    """Maps and unmaps. A region that it has is not mapped again: a new control plane tells all once more."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._epochs: dict[int, int] = {}  # of what is mapped, by region index

    def take(self, waiting: Sequence[tuple[ToWorker, list[int]]]) -> None:
        """Carry out these messages, all that wait, as far as they are about regions."""
        unmapped_at = {
            region_index: place
            for place, (message, _) in enumerate(waiting)
            if isinstance(message, UnmapRegions)
            for region_index in message.region_indexes
        }
        for place, (message, fds) in enumerate(waiting):
            match message:
                case MapRegions():
                    # Its memory may be gone as well, and its index stand for another region already.
                    gone = {index for index, gone_at in unmapped_at.items() if place < gone_at}
                    self._map(message, fds, gone)
                case UnmapRegions():
                    for region_index in message.region_indexes:
                        self._unmap(region_index)
                case ChangeStorage():
                    self._memory.skip(message.epoch)  # requests of it are for the storage that there is now
                case KeepRegions():
                    for region_index, _ in self._epochs.items() - message.epochs.items():
                        self._unmap(region_index)

    def _map(self, message: MapRegions, fds: Sequence[int], gone: set[int]) -> None:
        for added, fd in zip(message.regions, fds, strict=True):
            if added.region_index in gone:
                self._memory.skip(added.epoch)
            elif self._epochs.get(added.region_index) != added.epoch:
                self._memory.add(added.region_index, added.region, fd, added.epoch, or_lost=True)
                self._epochs[added.region_index] = added.epoch
        self._memory.skip(message.epoch)

    def _unmap(self, region_index: int) -> None:
        self._memory.unmap(region_index)
        self._epochs.pop(region_index, None)
