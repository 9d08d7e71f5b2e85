"""One queue of the hostile guest: free descriptors, requests on their way, kicks and calls."""

import os
import select
from collections import deque

from tests.rigs.engine_rig import RawQueue
from tests.stress.request_shape import write_descriptors
from tests.stress.stress_request import StressRequest

LOOK_S = 0.25
MAX_LOOKS = 240
"""A guard of a minute, counted in looks: a pause of this very process is one look."""
_NO_NOTIFY = 1
_WRAP = 0xFFFF


class StressQueue:
    """A queue that behaves until it is told not to."""

    def __init__(self, raw: RawQueue, queue_index: int, event_idx: bool) -> None:
        self.raw = raw
        self.driver = raw.driver
        self.queue_index = queue_index
        self.event_idx = event_idx
        self.is_broken = False
        self.is_enabled = True
        self.free = deque(range(self.driver.queue_size))
        self.inflight: dict[int, StressRequest] = {}
        self._kicked_at = self.driver.avail_idx

    def has_room(self, entry_count: int) -> bool:
        """Whether there are so many free descriptors."""
        return len(self.free) >= entry_count

    def take_indices(self, entry_count: int) -> list[int]:
        """Free descriptors, the longest unused first."""
        return [self.free.popleft() for _ in range(entry_count)]

    def offer(self, request: StressRequest) -> None:
        """Make it available, without a kick."""
        write_descriptors(self.driver, request.layout, request.indices)
        self.driver.offer(request.indices[0])
        self.inflight[request.indices[0]] = request

    def kick(self, *, always: bool = False) -> None:
        """Tell the device what was offered, if it asked for that (virtio 1.2, 2.7.10 and 2.7.13.4)."""
        driver = self.driver
        new, old = driver.avail_idx, self._kicked_at
        self._kicked_at = new
        if self.event_idx:
            wanted = (new - driver.avail_event - 1) & _WRAP < (new - old) & _WRAP
        else:
            wanted = not driver.used_flags & _NO_NOTIFY
        if wanted or always:
            self.raw.kick()

    def take(self) -> list[tuple[StressRequest, int]]:
        """What has come back: requests and used lengths."""
        taken = []
        for head, used_bytes in self.driver.used():
            assert head in self.inflight, f"queue {self.queue_index}: head {head} came back unasked, or twice"
            request = self.inflight.pop(head)
            self.free.extend(request.indices)
            taken.append((request, used_bytes))
        return taken

    def wait(self, why: str) -> list[tuple[StressRequest, int]]:
        """Wait for a call, and take what has come back."""
        for _ in range(MAX_LOOKS):
            self.driver.used_event = self.driver.next_used
            if taken := self.take():
                return taken
            ready, _, _ = select.select([self.raw.call_fd], [], [], LOOK_S)
            if ready:
                os.eventfd_read(self.raw.call_fd)
            elif self.driver.used_idx != self.driver.next_used:
                # They may have come between the two looks; then so will their call.
                ready, _, _ = select.select([self.raw.call_fd], [], [], LOOK_S * MAX_LOOKS)
                assert ready, f"queue {self.queue_index}: requests came back without a call"
        raise AssertionError(f"queue {self.queue_index}: {len(self.inflight)} do not come back: {why}")

    def begin_anew(self, idx: int) -> None:
        """New rings, from this index on; the queue is stopped, and what did not come back never will."""
        driver = self.driver
        driver.fill(driver.desc_gpa, driver.places_gpa - driver.desc_gpa, 0)
        driver.start_at(idx)
        self.free = deque(range(driver.queue_size))
        self.inflight.clear()
        self._kicked_at = driver.avail_idx
        self.is_broken = False
        self.drain_events()

    def drain_events(self) -> None:
        """Forget kicks, calls and errors of before."""
        for fd in (self.raw.kick_fd, self.raw.call_fd, self.raw.err_fd):
            try:
                os.eventfd_read(fd)
            except BlockingIOError:
                continue

    def wait_broken(self) -> None:
        """Wait until the device has said that the queue is broken."""
        for _ in range(MAX_LOOKS):
            ready, _, _ = select.select([self.raw.err_fd], [], [], LOOK_S)
            if ready:
                os.eventfd_read(self.raw.err_fd)
                return
        raise AssertionError(f"queue {self.queue_index} does not break")
