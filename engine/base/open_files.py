"""How many descriptors an engine may have open: as many as its drives can come to need, or they do not start.

What a front end can make it hold is bounded (rings, regions), so an engine that starts never runs out by
what a front end does. It is looked at again before more workers are started, and before another drive is.
"""

import resource

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError

MAX_MEM_SLOTS = 509
"""As many memory regions as others take (rust-vmm); QEMU plugs up to 256 for one virtio-mem device."""
LEAST_MEM_SLOTS = 32
"""Where only few files may be open."""
SHARE = 256
"""The part of what is left for regions that one drive of many may take: so hundreds find some, too."""

OPEN_FILES_MEND = "raise the limit (ulimit -Hn, LimitNOFILE=)"

_ENGINE_COUNT = 40
"""Event loop, standard streams, and what the control API has open."""
_DRIVE_COUNT = 40
"""Image, segment, records, sockets, dispatcher, front ends that wait, and what its backend has open."""
_WORKER_COUNT = 6
"""Eventfd, pidfd, io_uring, both ends of the channel, and a message's copy."""
_QUEUE_COUNT = 6
"""Kick, call and error, and a copy of each on its way to the dispatcher."""
_REGION_COUNT = 3
"""Its own, that of one that has gone while requests still use it, and a copy on its way to a child."""
_STORAGE_COUNT = 2
"""Of each descriptor of the storage: itself, and a copy on its way to a child; a third if they are kept."""
_KEPT_COUNT = 3
"""More of a worker and of a queue where processes outlive the supervisor: copies of what they keep for it."""
_KEPT_REGION_COUNT = 1
"""The same of a region."""


class _Need(msgspec.Struct, frozen=True):
    """What one drive can need."""

    worker_count: int
    num_queues: int
    is_kept: bool
    """Whether its processes outlive the supervisor."""
    mem_slot_count: int = LEAST_MEM_SLOTS
    storage_count: int = 0
    """Descriptors of its storage: with many layers there are many."""

    @property
    def file_count(self) -> int:
        counts = _DRIVE_COUNT + (_STORAGE_COUNT + self.is_kept) * self.storage_count
        counts += _WORKER_COUNT * self.worker_count + _QUEUE_COUNT * self.num_queues
        kept_count = self.is_kept * _KEPT_COUNT * (self.worker_count + self.num_queues)
        return counts + kept_count + self.region_count * self.mem_slot_count

    @property
    def region_count(self) -> int:
        """For each region."""
        return _REGION_COUNT + self.is_kept * _KEPT_REGION_COUNT


class OpenFiles:
    """The descriptors of one engine, and which of its drives may have how many."""

    def __init__(self, *, is_sole: bool) -> None:
        """With `is_sole` there will be one drive, which may have them all."""
        self._is_sole = is_sole
        self._needs: dict[str, _Need] = {}

    def reserve(
        self, drive: str, worker_count: int, num_queues: int, storage_count: int | None = None
    ) -> None:
        """Set apart what a drive with so many workers and queues can need, and raise the soft limit to that.

        `storage_count` is of descriptors of its storage, as before where it is not given.

        Raises `ProgramError` where the hard limit is too low even for few memory slots; nothing has changed
        then.
        """
        former = self._needs.get(drive)
        others = sum(need.file_count for name, need in self._needs.items() if name != drive)
        mem_slot_count = former.mem_slot_count if former else LEAST_MEM_SLOTS
        if storage_count is None:
            storage_count = former.storage_count if former else 0
        need = _Need(worker_count, num_queues, not self._is_sole, mem_slot_count, storage_count)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        least = _ENGINE_COUNT + others + need.file_count
        if hard != resource.RLIM_INFINITY and hard < least:
            raise ProgramError(
                f"only {hard} files may be open, {self._words(drive, need)} can need {least}:"
                f" {OPEN_FILES_MEND}, or ask for fewer",
                ExitStatus.FAILED,
            )
        if former is None and not self._is_sole:
            room = (
                MAX_MEM_SLOTS
                if hard == resource.RLIM_INFINITY
                else (hard - least) // need.region_count // SHARE
            )
            slot_count = max(LEAST_MEM_SLOTS, min(MAX_MEM_SLOTS, room))
            need = msgspec.structs.replace(need, mem_slot_count=slot_count)
        self._needs[drive] = need
        most = msgspec.structs.replace(need, mem_slot_count=MAX_MEM_SLOTS) if self._is_sole else need
        wanted = _ENGINE_COUNT + others + most.file_count
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def release(self, drive: str) -> None:
        """A drive is no more, or was not started: others may have its share."""
        self._needs.pop(drive, None)

    def mem_slot_count(self, drive: str) -> int:
        """How many memory slots a drive may offer that has reserved its share."""
        need = self._needs[drive]
        if not self._is_sole:
            return need.mem_slot_count
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return MAX_MEM_SLOTS
        without_regions = _ENGINE_COUNT + need.file_count - need.region_count * need.mem_slot_count
        room = (soft - without_regions) // need.region_count
        return max(LEAST_MEM_SLOTS, min(MAX_MEM_SLOTS, room))

    def _words(self, drive: str, need: _Need) -> str:
        """What all of the drives together have, this one among them."""
        needs = {**self._needs, drive: need}.values()
        workers = sum(each.worker_count for each in needs)
        queues = sum(each.num_queues for each in needs)
        counts = f"{workers} workers and {queues} queues"
        return counts if self._is_sole else f"{len(needs)} drives with {counts}"
