"""How many descriptors an engine may have open: as many as its drives can come to need, or they do not start.

What a front end can make it hold is bounded (rings, regions), so an engine that starts never runs out by
what a front end does. A drive without one needs few: what its front end can need is set apart when that
comes, which is turned away where there are too few left. The only drive of an engine has them all from the
start. It is looked at again before more workers are started, and before another drive is.
"""

import logging
import resource
from collections.abc import Callable

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError

MAX_MEM_SLOTS = 509
"""As many memory regions as others take (rust-vmm); QEMU plugs up to 256 for one virtio-mem device."""
LEAST_MEM_SLOTS = 8
"""Where only few files may be open: as many as one message can bring (VHOST_MEMORY_BASELINE_NREGIONS)."""
SHARE = 256
"""The part of what is left for regions that one front end of many may take: so hundreds find some, too."""

OPEN_FILES_MEND = "raise the limit (ulimit -Hn, LimitNOFILE=)"

_ENGINE_COUNT = 40
"""Event loop, standard streams, and what the control API has open."""
REST_COUNT = 14
"""Segment, record, sockets, eventfd, and the dispatcher's channel, pidfd, io_uring and Landlock rules;
but for its storage."""
_GUEST_COUNT = 28
"""Connection, in-flight region, log, back-end channel, copies of these, states kept; eight who wait."""
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

_log = logging.getLogger(__name__)


class _Need(msgspec.Struct, frozen=True):
    """What one drive can need."""

    worker_count: int
    num_queues: int
    is_kept: bool
    """Whether its processes outlive the supervisor."""
    storage_count: int
    """Descriptors of its storage: with many layers there are many."""

    @property
    def rest_count(self) -> int:
        """Without a front end."""
        return REST_COUNT + (_STORAGE_COUNT + self.is_kept) * self.storage_count

    @property
    def worker_files(self) -> int:
        """For each worker."""
        return _WORKER_COUNT + self.is_kept * _KEPT_COUNT

    @property
    def region_files(self) -> int:
        """For each region."""
        return _REGION_COUNT + self.is_kept * _KEPT_REGION_COUNT

    def guest_count(self, slot_count: int) -> int:
        """More with a front end that may have so many regions."""
        counts = _GUEST_COUNT + self.worker_files * self.worker_count + self.region_files * slot_count
        return counts + (_QUEUE_COUNT + self.is_kept * _KEPT_COUNT) * self.num_queues


class OpenFiles:
    """The descriptors of one engine, and which of its drives may have how many."""

    def __init__(self, *, is_sole: bool) -> None:
        """With `is_sole` there will be one drive, which may have them all."""
        self._is_sole = is_sole
        self._needs: dict[str, _Need] = {}
        self._slot_counts: dict[str, int] = {}  # of drives with a front end
        self._left: dict[str, Callable[[], int]] = {}  # those without one again: workers that are up still
        self._rest_count = 0  # of all drives
        self._guest_count = 0  # of all that have a front end
        self._least_count = 0  # of all, were there a front end at each, with few regions
        self._is_short = False  # whether that is more than there are, and was said

    def reserve(
        self, drive: str, worker_count: int, num_queues: int, storage_count: int | None = None
    ) -> None:
        """Set apart what a drive with so many workers and queues needs, and raise the soft limit.

        That is what it needs at rest, and for the front end that it has; there must be room for one front end
        at least. `storage_count` is of descriptors of its storage, as before where it is not given.

        Raises `ProgramError` where the hard limit is too low even for few memory slots; nothing has changed
        then.
        """
        former = self._needs.get(drive)
        if storage_count is None:
            storage_count = former.storage_count if former else 0
        need = _Need(worker_count, num_queues, not self._is_sole, storage_count)
        rest_count, guest_count = self._rest_count + need.rest_count, self._guest_count
        least_count = self._least_count + need.guest_count(LEAST_MEM_SLOTS)
        if former is not None:
            rest_count -= former.rest_count
            least_count -= former.guest_count(LEAST_MEM_SLOTS)
            if (slot_count := self._slot_counts.get(drive)) is not None:
                guest_count += need.guest_count(slot_count) - former.guest_count(slot_count)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        least = _ENGINE_COUNT + rest_count + max(guest_count, need.guest_count(LEAST_MEM_SLOTS))
        if hard != resource.RLIM_INFINITY and hard < least:
            verb = "can need" if self._is_sole else "need at least"
            raise ProgramError(
                f"only {hard} files may be open, {self._words(drive, need)} {verb} {least}:"
                f" {OPEN_FILES_MEND}, or ask for fewer",
                ExitStatus.FAILED,
            )
        self._needs[drive] = need
        self._rest_count, self._guest_count, self._least_count = rest_count, guest_count, least_count
        self._raise_soft_limit(_ENGINE_COUNT + rest_count + guest_count + need.guest_count(MAX_MEM_SLOTS))
        self._note_shortage(hard)

    def _note_shortage(self, hard: int) -> None:
        """Say once that not every drive can have a front end."""
        all_count = _ENGINE_COUNT + self._rest_count + self._least_count
        is_short = hard != resource.RLIM_INFINITY and hard < all_count
        if is_short and not self._is_short:
            _log.warning(
                "%d files may be open, %d drives can need %d once each of them has a front end: %s",
                hard,
                len(self._needs),
                all_count,
                OPEN_FILES_MEND,
            )
        self._is_short = is_short

    def _raise_soft_limit(self, wanted: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def release(self, drive: str) -> None:
        """A drive is no more, or was not started: others may have its share."""
        self.leave(drive)
        self._left.pop(drive, None)
        if (need := self._needs.pop(drive, None)) is not None:
            self._rest_count -= need.rest_count
            self._least_count -= need.guest_count(LEAST_MEM_SLOTS)

    def admit(self, drive: str, told_count: int | None = None) -> str:
        """Set apart what a front end of this drive can need; why that cannot be, or nothing.

        One that was told already how many regions it may have is never turned away.
        """
        if self._is_sole:
            return ""
        need = self._needs[drive]
        self._left.pop(drive, None)
        slot_count = told_count
        if slot_count is None:
            spare = self._room() - need.guest_count(LEAST_MEM_SLOTS)
            if spare < 0:
                others = len(self._slot_counts)
                return f"too few files may be open for one more beside {others} others: {OPEN_FILES_MEND}"
            slot_count = min(MAX_MEM_SLOTS, LEAST_MEM_SLOTS + spare // need.region_files // SHARE)
        self._slot_counts[drive] = slot_count
        self._guest_count += need.guest_count(slot_count)
        self._raise_soft_limit(_ENGINE_COUNT + self._rest_count + self._guest_count)
        return ""

    def leave(self, drive: str, workers_up: Callable[[], int] = lambda: 0) -> None:
        """The front end of this drive has gone; its workers may stay for a while, `workers_up` tells."""
        slot_count = self._slot_counts.pop(drive, None)
        if slot_count is not None:
            self._guest_count -= self._needs[drive].guest_count(slot_count)
            self._left[drive] = workers_up

    def _room(self) -> int:
        """How many are left for other front ends."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard == resource.RLIM_INFINITY:
            return 1 << 30
        up = {drive: count for drive, workers_up in self._left.items() if (count := workers_up())}
        self._left = {drive: self._left[drive] for drive in up}
        staying = sum(count * self._needs[drive].worker_files for drive, count in up.items())
        return hard - _ENGINE_COUNT - self._rest_count - self._guest_count - staying

    def mem_slot_count(self, drive: str) -> int:
        """How many memory slots the front end of a drive may be offered, once it is admitted."""
        if not self._is_sole:
            return self._slot_counts[drive]
        need = self._needs[drive]
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return MAX_MEM_SLOTS
        room = (soft - _ENGINE_COUNT - need.rest_count - need.guest_count(0)) // need.region_files
        return max(LEAST_MEM_SLOTS, min(MAX_MEM_SLOTS, room))

    def _words(self, drive: str, need: _Need) -> str:
        """What all of the drives together have, this one among them."""
        needs = {**self._needs, drive: need}.values()
        workers = sum(each.worker_count for each in needs)
        queues = sum(each.num_queues for each in needs)
        counts = f"{workers} workers and {queues} queues"
        return counts if self._is_sole else f"{len(needs)} drives with {counts}"
