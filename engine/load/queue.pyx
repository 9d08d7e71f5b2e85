# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One queue's share of a load: a native loop that keeps a fixed number of requests in flight.

Requests have numbers from 0 to depth - 1, each with a place for its data. A number that is not in flight
stands in a ring of waiting ones, from which it is offered again at once, or as soon as the virtqueue has
room; its latency runs from when it began to wait.
"""

from libc.errno cimport EINTR, EPIPE, EPROTO
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ringblk.engine.frontend.queue cimport FrontendQueue
from ringblk.shm.layout.histogram cimport Histogram
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.layout.split_ring cimport UsedElement
from ringblk.workers.block.request cimport SECTOR_BYTES, TYPE_IN, TYPE_OUT

from ringblk.engine.frontend.request import BackendGone
from ringblk.engine.load.load import LoadFailed
from ringblk.shm.queues.driver_virtqueue import DeviceBroken

cdef enum:
    WAIT_NS = 100_000_000       # how long a wait goes on without a look at `stopping`

cdef uint64_t STALL_NS = <uint64_t>10_000_000_000


cdef class LoadQueue:
    """Keeps `depth` requests in flight on `queue` from `run()` on until a given time.

    Their data lies in `buffer` (guest memory of at least depth * block_bytes). Blocks from `first_block` on,
    `block_count` of them, are used; a random load draws them from `seed`, which is not 0.
    """

    cdef FrontendQueue queue
    cdef object buffer
    cdef uint64_t data_gpa
    cdef uint64_t block_bytes
    cdef uint64_t first_block
    cdef uint64_t block_count
    cdef uint64_t position              # of the next sequential request
    cdef uint64_t random_state
    cdef uint32_t depth
    cdef uint32_t read_percent
    cdef bint is_sequential
    cdef uint32_t *number_of            # by head index
    cdef uint64_t *born_ns              # by number
    cdef uint32_t *waiting
    cdef uint32_t waiting_first
    cdef uint32_t waiting_count
    cdef readonly Histogram histogram
    cdef readonly uint64_t error_count
    cdef readonly uint64_t started_count
    cdef readonly uint64_t write_count
    cdef public bint stopping

    def __init__(self, FrontendQueue queue not None, buffer, *, block_bytes, first_block, block_count, depth,
                 is_sequential, read_percent, seed):
        if depth * block_bytes > buffer.size_bytes:
            raise ValueError(f"{depth} requests of {block_bytes} bytes in a buffer of {buffer.size_bytes}")
        if block_bytes % SECTOR_BYTES or block_count < 1:
            raise ValueError(f"{block_count} blocks of {block_bytes} bytes: not a load for this disk")
        self.queue = queue
        self.buffer = buffer
        self.data_gpa = buffer.gpa
        self.block_bytes = block_bytes
        self.first_block = first_block
        self.block_count = block_count
        self.random_state = seed
        self.depth = depth
        self.read_percent = read_percent
        self.is_sequential = is_sequential
        self.number_of = <uint32_t *>calloc(queue.virtqueue.queue_size, sizeof(uint32_t))
        self.born_ns = <uint64_t *>calloc(self.depth, sizeof(uint64_t))
        self.waiting = <uint32_t *>calloc(self.depth, sizeof(uint32_t))
        if self.number_of == NULL or self.born_ns == NULL or self.waiting == NULL:
            raise MemoryError
        self.histogram = Histogram()

    def __dealloc__(self):
        free(self.number_of)
        free(self.born_ns)
        free(self.waiting)

    def run(self, uint64_t begin_ns, uint64_t end_ns) -> None:
        """Load the queue now, measure from `begin_ns` to `end_ns` of the monotonic clock, then let it drain.

        Ends early once `stopping` is set. Raises LoadFailed when nothing comes back for ten seconds,
        BackendGone and DeviceBroken.
        """
        cdef int outcome
        with nogil:
            outcome = self._run(begin_ns, end_ns)
        if outcome == -EPIPE:
            raise BackendGone("the back end closed the connection under load")
        if outcome == -EPROTO:
            raise DeviceBroken("the back end wrote nonsense to the used ring under load")
        if outcome == -EINTR:
            raise LoadFailed(f"{self.queue.virtqueue.inflight_count} requests in flight, none came back in"
                             f" {STALL_NS // 1_000_000_000} s")
        if outcome < 0:
            raise OSError(-outcome, "cannot load the queue")

    cdef int _run(self, uint64_t begin_ns, uint64_t end_ns) noexcept nogil:
        cdef uint64_t now_ns = monotonic_ns(), progress_ns = now_ns
        cdef uint32_t number
        cdef int found, outcome = 0
        for number in range(self.depth):
            self._put_waiting(number, now_ns)
        while True:
            if now_ns < end_ns and not self.stopping:
                outcome = self._offer_waiting()
                if outcome < 0:
                    return outcome
            elif self.queue.virtqueue.inflight_count == 0:
                return 0
            outcome = self.queue.wait_used(now_ns + WAIT_NS, 1)
            if outcome == -EPIPE:
                return outcome
            now_ns = monotonic_ns()
            found = self._take_back(now_ns, begin_ns <= now_ns < end_ns)
            if found < 0:
                return found
            if found:
                progress_ns = now_ns
            elif now_ns - progress_ns > STALL_NS:
                return -EINTR

    cdef void _put_waiting(self, uint32_t number, uint64_t now_ns) noexcept nogil:
        cdef uint32_t place = self.waiting_first + self.waiting_count
        self.waiting[place if place < self.depth else place - self.depth] = number
        self.waiting_count += 1
        self.born_ns[number] = now_ns

    cdef int _offer_waiting(self) noexcept nogil:
        """Start waiting requests while there is room, and kick if that is asked for. 0 or -errno."""
        cdef uint32_t number, request_type, chain_descriptors = 1 if self.queue.indirect else 3
        cdef int head_index
        while self.waiting_count and self.queue.virtqueue.free_count >= chain_descriptors:
            number = self.waiting[self.waiting_first]
            request_type = self._draw_type()
            head_index = self.queue.start_request(
                request_type, self._draw_block() * (self.block_bytes // SECTOR_BYTES),
                self.data_gpa + number * self.block_bytes, <uint32_t>self.block_bytes, request_type == TYPE_IN)
            if head_index < 0:
                return head_index
            self.number_of[head_index] = number
            self.started_count += 1
            self.write_count += request_type == TYPE_OUT
            self.waiting_first += 1
            if self.waiting_first == self.depth:
                self.waiting_first = 0
            self.waiting_count -= 1
        self.queue.publish_and_kick()
        return 0

    cdef uint64_t _draw(self) noexcept nogil:
        """The next number of a xorshift generator (Marsaglia, 13/7/17)."""
        cdef uint64_t drawn = self.random_state
        drawn ^= drawn << 13
        drawn ^= drawn >> 7
        drawn ^= drawn << 17
        self.random_state = drawn
        return drawn

    cdef uint32_t _draw_type(self) noexcept nogil:
        if self.read_percent == 100:
            return TYPE_IN
        if self.read_percent == 0:
            return TYPE_OUT
        return TYPE_IN if (self._draw() >> 32) % 100 < self.read_percent else TYPE_OUT

    cdef uint64_t _draw_block(self) noexcept nogil:
        cdef uint64_t position = self.position
        if not self.is_sequential:
            return self.first_block + self._draw() % self.block_count
        self.position += 1
        if self.position == self.block_count:
            self.position = 0
        return self.first_block + position

    cdef int _take_back(self, uint64_t now_ns, bint is_measured) noexcept nogil:
        """Take every used request; how many, or -EPROTO."""
        cdef UsedElement element
        cdef uint32_t number
        cdef int found, count = 0
        while True:
            found = self.queue.virtqueue.next_used_element(&element)
            if found <= 0:
                return found if found < 0 else count
            count += 1
            number = self.number_of[element.head_index]
            if is_measured:
                self.histogram.add_ns(now_ns - self.born_ns[number])
                self.error_count += self.queue.areas[element.head_index].status != 0
            self._put_waiting(number, now_ns)
