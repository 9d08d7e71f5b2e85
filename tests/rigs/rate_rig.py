"""Drives that draw tokens on a clock of the test's own: real throttles and buckets, no engine, no I/O."""

import contextlib
import mmap
import uuid
from collections import deque
from collections.abc import Iterator, Sequence

from ringblk.engine.dispatcher.throttle import Throttle
from ringblk.shm.rates.limit import RateLimit
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.state.segment import StateSegment

SLOTS = 64
NEVER = (1 << 64) - 1
SECOND = 1_000_000_000


class Drive:
    """One drive's throttle; what begins is noted in `begun` as (when, queue, kind, bytes)."""

    def __init__(self, limit: RateLimit | None = None, state: StateSegment | None = None) -> None:
        self.state = state or StateSegment.create(f"ringblk-test-{uuid.uuid4().hex}", SLOTS, 1)
        self.state.open_slots()
        self.throttle = Throttle(self.state, limit or self.state.rate_limit, limit is not None)
        self.waiting: dict[int, tuple[int, int, int]] = {}
        self.begun: list[tuple[int, int, int, int]] = []
        self.total_bytes = 0

    def offer(self, queue_index: int, kind: int, length_bytes: int, now_ns: int) -> bool:
        """Pop a request: True when it begins at once."""
        slot = next(slot for slot in range(SLOTS) if slot not in self.waiting)
        self.waiting[slot] = queue_index, kind, length_bytes
        if self.throttle.offer(slot, queue_index, kind, length_bytes, now_ns):
            self._begin([slot], now_ns)
            return True
        return False

    def run(self, now_ns: int) -> int:
        """Begin what may begin; returns how many that was."""
        return self._begin(self.throttle.ready(now_ns), now_ns)

    def stop(self, queue_index: int, now_ns: int) -> int:
        """Stop a queue whose requests cannot go back to its ring."""
        return self._begin(self.throttle.let_go(queue_index, now_ns), now_ns)

    def _begin(self, slots: Sequence[int], now_ns: int) -> int:
        new = [(now_ns, *self.waiting.pop(slot)) for slot in slots]
        self.begun += new
        self.total_bytes += sum(length for *_, length in new)
        return len(slots)

    def waiting_in(self, queue_index: int) -> int:
        """How many requests of a queue wait."""
        return sum(queue == queue_index for queue, _, _ in self.waiting.values())

    def bytes_begun(self, since_ns: int = 0, queue_index: int | None = None) -> int:
        return sum(
            length
            for when_ns, queue, _, length in self.begun
            if when_ns >= since_ns and queue_index in (None, queue)
        )

    def close(self) -> None:
        self.state.close()


class Guest:
    """Keeps `depth` requests in flight in each of its queues; each is served `service_ns` after it began."""

    def __init__(
        self,
        drive: Drive,
        kind: int,
        length_bytes: int,
        *,
        queues: int = 1,
        depth: int = 4,
        service_ns: int = 0,
    ) -> None:
        self.drive, self.kind, self.length_bytes = drive, kind, length_bytes
        self.queues, self.depth, self.service_ns = queues, depth, service_ns
        self.being_served: deque[tuple[int, int]] = deque()

    def go_on(self, now_ns: int) -> bool:
        """Do what may be done now; False when nothing was."""
        drive, begun = self.drive, len(self.drive.begun)
        while self.being_served and self.being_served[0][0] <= now_ns:
            self.being_served.popleft()
        drive.run(now_ns)
        if not drive.throttle.owes(now_ns):
            for queue in range(self.queues):
                serving = sum(index == queue for _, index in self.being_served)
                for _ in range(self.depth - drive.waiting_in(queue) - serving):
                    if not drive.throttle.has_enough(queue, self.queues):
                        drive.offer(queue, self.kind, self.length_bytes, now_ns)
        new = drive.begun[begun:]
        if self.service_ns:
            self.being_served += [(now_ns + self.service_ns, queue) for _, queue, _, _ in new]
        return bool(new)

    def next_ns(self, now_ns: int) -> int:
        """When there is something to do again."""
        wait_ns = self.drive.throttle.wait(now_ns)
        served_ns = self.being_served[0][0] if self.being_served else NEVER
        return min(NEVER if wait_ns == NEVER else now_ns + wait_ns, served_ns)


def play(guests: Sequence[Guest], start_ns: int, end_ns: int) -> None:
    """Let the clock go from one event to the next."""
    now_ns = start_ns
    while now_ns < end_ns:
        for _ in range(1000):
            progress = [guest.go_on(now_ns) for guest in guests]
            if not any(progress):
                break
        else:
            raise AssertionError("no end to what may begin at one moment")
        now_ns = max(min(guest.next_ns(now_ns) for guest in guests), now_ns + 1)


@contextlib.contextmanager
def one_drive(settings: RateLimitSettings) -> Iterator[Drive]:
    """A drive with a limit of its own, set at 0."""
    drive = Drive()
    drive.state.rate_limit.configure(settings, 0)
    try:
        yield drive
    finally:
        drive.close()


@contextlib.contextmanager
def group_of(count: int, settings: RateLimitSettings) -> Iterator[list[Drive]]:
    """Drives that share one limit, set at 0."""
    limit = RateLimit(mmap.mmap(-1, mmap.PAGESIZE), 64)
    limit.configure(settings, 0)
    drives = [Drive(limit) for _ in range(count)]
    try:
        yield drives
    finally:
        for drive in drives:
            drive.close()
