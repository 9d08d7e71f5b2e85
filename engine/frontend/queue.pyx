# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One queue of block requests: headers, data and status bytes as chains, and their completions.

The C-level methods (start_request, publish_and_kick, take_completion, wait_used) touch no Python object, so
that a native loop can drive a queue with them. The Python methods are made of them and take whole batches.
One thread uses a queue at a time.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, ENOSPC, EPIPE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ringblk.engine.frontend.buffer cimport Buffer
from ringblk.shm.platform.poll cimport HANG_UP, POLLIN, poll, pollfd
from ringblk.shm.platform.wakeup_fd cimport reset_foreign_wakeup, signal_foreign_wakeup
from ringblk.shm.sync.atomic cimport spin_hint
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.queues.driver_virtqueue cimport DriverVirtqueue, Piece
from ringblk.shm.layout.split_ring cimport UsedElement
from ringblk.workers.block.request cimport (
    HEADER_BYTES, SECTOR_BYTES, STATUS_NOT_WRITTEN, TYPE_IN, TYPE_OUT, SectorRange,
)

from itertools import islice

from ringblk.engine.frontend.request import BackendGone, Completion
from ringblk.shm.queues.driver_virtqueue import DeviceBroken, QueueFull, ring_bytes

cdef enum:
    SPINS_PER_CLOCK = 64
    SLICE_NS = 20_000_000       # how long a wait goes on without a look at signals

# No deadline: far enough away that sums with it stay below 2^64.
cdef uint64_t NEVER = <uint64_t>1 << 63


def queue_bytes(queue_size: int) -> int:
    """How much guest memory a queue takes: its rings and what its requests have besides their data."""
    return ring_bytes(queue_size) + queue_size * sizeof(RequestArea)


cdef class FrontendQueue:
    """A queue laid out at `offset_bytes` of guest memory; see queue_bytes() for how much it takes.

    `memory` is the guest memory's buffer and `gpa` the address of its first byte. With `indirect` every
    request takes one descriptor, without it one per piece. With `polling` poll() spins, without it sleeps.
    The owner sets fds (kick, call, the connection's socket) and the disk's capacity before anything is sent.
    """

    def __init__(self, memory, gpa: int, queue_index: int, queue_size: int, *, offset_bytes: int,
                 indirect: bool, event_idx: bool, polling: bool):
        self.virtqueue = DriverVirtqueue(
            memory, gpa, queue_size, offset_bytes=offset_bytes, event_idx=event_idx
        )
        if offset_bytes + queue_bytes(queue_size) > self.virtqueue.memory_bytes:
            raise ValueError(f"a queue of {queue_bytes(queue_size)} bytes does not fit at {offset_bytes}")
        self.areas_gpa = gpa + offset_bytes + ring_bytes(queue_size)
        self.areas = <RequestArea *>(self.virtqueue.memory_base + (self.areas_gpa - self.virtqueue.gpa))
        self.indirect = indirect
        self.polling = polling
        self.kick_fd = self.call_fd = self.socket_fd = -1
        self.tokens = <uint64_t *>calloc(queue_size, sizeof(uint64_t))
        self.started_ns = <uint64_t *>calloc(queue_size, sizeof(uint64_t))
        if self.tokens == NULL or self.started_ns == NULL:
            raise MemoryError
        self.next_token = <uint64_t>queue_index << 48
        self._buffers = [None] * queue_size
        self._stashed = []
        self.virtqueue.disarm_call()

    def __dealloc__(self):
        free(self.tokens)
        free(self.started_ns)

    # The native path.

    cdef int start_request(self, uint32_t request_type, uint64_t sector, uint64_t gpa, uint32_t length_bytes,
                           bint device_writes) noexcept nogil:
        """Add a request with data at `gpa` (none if its length is 0); its head index, -ENOSPC or -EINVAL.

        The head index is the request's until take_completion() gives it back; the device sees nothing of
        the request before publish_and_kick().
        """
        cdef RequestArea *area = &self.areas[self.virtqueue.free_head]
        if self.virtqueue.free_count == 0:
            return -ENOSPC
        area.request_type = request_type
        area.reserved = 0
        area.sector = sector
        return self._add(gpa, length_bytes, device_writes)

    cdef int start_range_request(self, uint32_t request_type, uint64_t sector, uint32_t num_sectors,
                                 uint32_t flags) noexcept nogil:
        """Add a DISCARD or WRITE_ZEROES of one range; as start_request()."""
        cdef uint32_t head_index = self.virtqueue.free_head
        cdef RequestArea *area = &self.areas[head_index]
        if self.virtqueue.free_count == 0:
            return -ENOSPC
        area.request_type = request_type
        area.reserved = 0
        area.sector = 0
        area.range_sector = sector
        area.range_num_sectors = num_sectors
        area.range_flags = flags
        return self._add(self._area_gpa(head_index) + HEADER_BYTES, sizeof(SectorRange), False)

    cdef uint64_t _area_gpa(self, uint32_t head_index) noexcept nogil:
        return self.areas_gpa + head_index * sizeof(RequestArea)

    cdef int _add(self, uint64_t gpa, uint64_t length_bytes, bint device_writes) noexcept nogil:
        """Make a chain of the next head's area and the data."""
        cdef Piece pieces[3]
        cdef uint32_t piece_count = 1
        cdef uint32_t head_index = self.virtqueue.free_head
        cdef uint64_t area_gpa = self._area_gpa(head_index)
        cdef RequestArea *area = &self.areas[head_index]
        cdef int outcome
        area.status = STATUS_NOT_WRITTEN
        pieces[0].gpa = area_gpa
        pieces[0].length_bytes = HEADER_BYTES
        pieces[0].writable = False
        if length_bytes:
            pieces[1].gpa = gpa
            pieces[1].length_bytes = <uint32_t>length_bytes
            pieces[1].writable = device_writes
            piece_count = 2
        pieces[piece_count].gpa = area_gpa + 32
        pieces[piece_count].length_bytes = 1
        pieces[piece_count].writable = True
        piece_count += 1
        if self.indirect:
            outcome = self.virtqueue.add_indirect(pieces, piece_count, &area.table[0], area_gpa + 64)
        else:
            outcome = self.virtqueue.add_direct(pieces, piece_count)
        if outcome >= 0:
            self.started_ns[head_index] = monotonic_ns()
        return outcome

    cdef void publish_and_kick(self) noexcept nogil:
        """Let the back end see every request started so far; kick it if it asked for that."""
        self.virtqueue.publish_chains()
        if self.virtqueue.check_kick():
            self.signal_kick()

    cdef void signal_kick(self) noexcept nogil:
        # The back end holds the descriptor too, and may fill it and make it block: a full one is a kick already.
        signal_foreign_wakeup(self.kick_fd, True)

    cdef int take_completion(self, NativeCompletion *completion) noexcept nogil:
        """The next completion: 1, 0 when there is none, or -EPROTO for a broken device."""
        cdef UsedElement element
        cdef int found = self.virtqueue.next_used_element(&element)
        if found <= 0:
            return found
        completion.head_index = element.head_index
        completion.token = self.tokens[element.head_index]
        completion.used_length_bytes = element.length_bytes
        completion.status = self.areas[element.head_index].status
        completion.latency_ns = monotonic_ns() - self.started_ns[element.head_index]
        return 1

    cdef int wait_used(self, uint64_t deadline_ns, uint32_t count) noexcept nogil:
        """Wait for a used chain: 1, 0 at the deadline, -EINTR to look at signals, -EPIPE without back end.

        The deadline is of the monotonic clock. One that sleeps may sleep until `count` chains are used, at
        most as many as are in flight; one that spins returns at the first.
        """
        cdef uint64_t now_ns
        if self.virtqueue.has_used():
            return 1
        now_ns = monotonic_ns()
        if now_ns >= deadline_ns:
            return -EPIPE if self._is_gone() else 0
        if self.polling:
            return self._spin(min(deadline_ns, now_ns + SLICE_NS))
        return self._sleep(deadline_ns, count)

    cdef int _spin(self, uint64_t deadline_ns) noexcept nogil:
        cdef uint32_t spin
        while True:
            for spin in range(SPINS_PER_CLOCK):
                if self.virtqueue.has_used():
                    return 1
                spin_hint()
            if monotonic_ns() >= deadline_ns:
                break
        if self._is_gone():
            # What it had used before it went still counts.
            return 1 if self.virtqueue.has_used() else -EPIPE
        return -EINTR

    cdef bint _is_gone(self) noexcept nogil:
        """Whether the connection has ended."""
        cdef pollfd hang_up
        hang_up.fd = self.socket_fd
        hang_up.events = HANG_UP
        return poll(&hang_up, 1, 0) > 0

    cdef int _sleep(self, uint64_t deadline_ns, uint32_t count) noexcept nogil:
        cdef pollfd fds[2]
        cdef uint64_t wait_ns = deadline_ns - monotonic_ns()
        cdef int ready
        fds[0].fd = self.call_fd
        fds[0].events = POLLIN
        fds[1].fd = self.socket_fd
        fds[1].events = HANG_UP
        if self.virtqueue.arm_call(count):
            self.virtqueue.disarm_call()
            return 1
        # Rounded up, so that the deadline is past when poll() says it is; at most a day, to stay in an int.
        ready = poll(fds, 2, <int>(min(wait_ns, <uint64_t>86_400_000_000_000) / 1_000_000 + 1))
        self.virtqueue.disarm_call()
        if ready > 0 and fds[0].revents & POLLIN:
            reset_foreign_wakeup(self.call_fd)
        if self.virtqueue.has_used():
            return 1
        if ready > 0 and fds[1].revents:
            # Looked at once more after the hang-up: what it had used before it went still counts.
            return 1 if self.virtqueue.has_used() else -EPIPE
        return -EINTR

    # The same in batches for Python callers.

    cdef object _started(self, int head_index, object buffer):
        """Give a request that was just added its token, and hold its buffer."""
        if head_index == -ENOSPC:
            raise QueueFull(f"{self.virtqueue.inflight_count} requests in flight")
        if head_index < 0:
            raise ValueError(f"a queue of {self.virtqueue.queue_size} is too small for this request")
        cdef uint64_t token = self.next_token
        self.next_token += 1
        self.tokens[head_index] = token
        if buffer is not None:
            (<Buffer>buffer).take()
            self._buffers[head_index] = buffer
        return token

    def start(self, request_type: int, sector: int, buffer: Buffer | None, device_writes: bool) -> int:
        """Add a request with the buffer's bytes as its data; its token. Raises QueueFull."""
        cdef Buffer data = buffer
        if self.virtqueue.broken:
            raise DeviceBroken("the queue is broken")
        if data is None:
            return self._started(self.start_request(request_type, sector, 0, 0, False), None)
        if data.released:
            raise ValueError("the buffer was released")
        if data.size_bytes >> 32:
            raise ValueError(f"{data.size_bytes} bytes are more than one request takes")
        return self._started(
            self.start_request(request_type, sector, data.gpa, <uint32_t>data.size_bytes, device_writes), data
        )

    cdef int _check_span(self, offset_bytes, size_bytes) except -1:
        """Raise `ValueError` for what is not made of sectors, or lies outside of the disk."""
        if (offset_bytes | size_bytes) % SECTOR_BYTES:
            wrong = offset_bytes if offset_bytes % SECTOR_BYTES else size_bytes
            raise ValueError(f"{wrong} is not a multiple of {SECTOR_BYTES}")
        if offset_bytes < 0 or size_bytes < 0 or offset_bytes + size_bytes > self.capacity_bytes:
            place = f"{size_bytes} bytes at {offset_bytes}"
            raise ValueError(f"{place} lie outside of a disk of {self.capacity_bytes} bytes")
        return 0

    def check_span(self, offset_bytes: int, size_bytes: int) -> None:
        """Raise `ValueError` for bytes that no request may ask for."""
        self._check_span(offset_bytes, size_bytes)

    def start_data(self, request_type: int, offset_bytes: int, buffer: Buffer) -> int:
        """Add an IN or OUT of the buffer's bytes; its token. Raises QueueFull, ValueError as check_span()."""
        self._check_span(offset_bytes, buffer.size_bytes)
        return self.start(request_type, offset_bytes // SECTOR_BYTES, buffer, request_type == TYPE_IN)

    def start_span(self, request_type: int, offset_bytes: int, size_bytes: int, flags: int) -> int:
        """Add a DISCARD or WRITE_ZEROES of one range; its token. Raises as start_data()."""
        self._check_span(offset_bytes, size_bytes)
        if size_bytes // SECTOR_BYTES >> 32:
            raise ValueError(f"{size_bytes} bytes are more than one request takes")
        if self.virtqueue.broken:
            raise DeviceBroken("the queue is broken")
        cdef uint64_t sector = offset_bytes // SECTOR_BYTES
        return self._started(self.start_range_request(request_type, sector, size_bytes // SECTOR_BYTES, flags), None)

    def start_many(self, requests) -> list[int]:
        """Add reads and writes as (type, offset_bytes, buffer) until the queue is full; their tokens.

        No more of them are looked at than there is room for. Raises ValueError before any is added.
        """
        chosen = list(islice(requests, self.virtqueue.free_count // (1 if self.indirect else 3)))
        for request_type, offset_bytes, buffer in chosen:
            if request_type not in (TYPE_IN, TYPE_OUT):
                raise ValueError(f"type {request_type} is neither IN nor OUT")
            self._check_span(offset_bytes, (<Buffer?>buffer).size_bytes)
            if (<Buffer>buffer).released:
                raise ValueError("the buffer was released")
        return [self.start(kind, offset // SECTOR_BYTES, buffer, kind == TYPE_IN) for kind, offset, buffer in chosen]

    def kick(self, *, always: bool = False) -> None:
        """Let the back end see every request started so far, and kick it if it asked for that, or `always`."""
        cdef bint is_certain = always
        with nogil:
            self.publish_and_kick()
            if is_certain:
                self.signal_kick()

    def poll(self, min_count: int, max_count: int, timeout_ns: int | None) -> list[Completion]:
        """Up to max_count completions; waits until there are min_count or the time is over.

        Fewer also when nothing more is in flight. Raises BackendGone when the back end went and left nothing to
        take, DeviceBroken as pop_used().
        """
        cdef uint64_t deadline_ns = NEVER if timeout_ns is None else monotonic_ns() + <uint64_t>timeout_ns
        cdef size_t wanted = min(min_count, max_count)
        completions, self._stashed = self._stashed[:max_count], self._stashed[max_count:]
        while True:
            self._take_ready(completions, max_count)
            if <size_t>len(completions) >= wanted:
                return completions
            if not self._wait(deadline_ns, wanted - len(completions), len(completions) > 0):
                return completions

    def wait_for(self, token: int, timeout_ns: int | None) -> Completion | None:
        """The completion of one request, None when the time is over; others stay for poll() to find."""
        cdef uint64_t deadline_ns = NEVER if timeout_ns is None else monotonic_ns() + <uint64_t>timeout_ns
        cdef Py_ssize_t looked_at = 0
        while True:
            self._take_ready(self._stashed, len(self._stashed) + self.virtqueue.queue_size)
            while looked_at < len(self._stashed):
                if self._stashed[looked_at].token == token:
                    return self._stashed.pop(looked_at)
                looked_at += 1
            if not self._wait(deadline_ns, 1, False):
                return None

    cdef int _take_ready(self, list completions, size_t max_count) except -1:
        """Append the completions that are there."""
        cdef NativeCompletion native
        cdef int found
        while <size_t>len(completions) < max_count:
            found = self.take_completion(&native)
            if found < 0:
                raise DeviceBroken(f"used element {self.virtqueue.next_used} is of no request in flight")
            if found == 0:
                break
            buffer = self._buffers[native.head_index]
            if buffer is not None:
                self._buffers[native.head_index] = None
                (<Buffer>buffer).give_back()
            completions.append(
                Completion(native.token, native.status, native.used_length_bytes, native.latency_ns, buffer)
            )
        return 0

    cdef int _wait(self, uint64_t deadline_ns, size_t count, bint has_some) except -1:
        """1 once there is something to take; 0 when the time is over or nothing more can come."""
        cdef int outcome
        if self.virtqueue.inflight_count == 0:
            return 0
        count = min(count, self.virtqueue.inflight_count)
        while True:
            with nogil:
                outcome = self.wait_used(deadline_ns, <uint32_t>count)
            if outcome >= 0:
                return outcome
            PyErr_CheckSignals()
            if outcome == -EPIPE:
                if has_some:
                    return 0
                raise BackendGone("the back end closed the connection")

    def reset_calls(self) -> None:
        """Forget the calls so far; a wait does it by itself."""
        reset_foreign_wakeup(self.call_fd)

    def stash_ready(self) -> int:
        """Take what is there and keep it for poll(); how many requests are still in flight."""
        self._take_ready(self._stashed, len(self._stashed) + self.virtqueue.queue_size)
        return self.virtqueue.inflight_count
