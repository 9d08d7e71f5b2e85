# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Counting completed requests in the state segment: the dispatcher's share of the statistics.

The counters have one writer at a time, the dispatcher that lives, so they need no atomic operations, and go on
where a predecessor left them. A dispatcher that dies in the middle of a batch may leave that batch uncounted.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.sync.atomic cimport store_relaxed_64
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.sync.invariant cimport invariant
from ringblk.shm.layout.histogram cimport histogram_record
from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.state.segment cimport OperationStatistics, QueueState, StateSegment
from ringblk.workers.requests.request cimport RequestParser


cdef inline void add(uint64_t *counter, uint64_t amount) noexcept nogil:
    store_relaxed_64(counter, counter[0] + amount)


cdef inline uint64_t interval(uint64_t begin_ns, uint64_t end_ns) noexcept nogil:
    return end_ns - begin_ns if end_ns > begin_ns else 0


cdef class RequestRecorder:
    """Counts what a dispatcher completes. The parser says how many bytes a request was about."""

    def __cinit__(self, StateSegment state, RequestParser parser):
        self.state = state
        self.parser = parser

    cdef void record(self, RequestSlot *slot) noexcept nogil:
        """Count a request whose outcome stands in its slot."""
        cdef OperationStatistics *statistics = &self.state.operations[slot.operation]
        invariant(slot.operation < self.state.operation_count, "an operation that is counted is one of those that there are")
        add(&statistics.request_count, 1)
        if slot.status:
            add(&statistics.error_count, 1)
        else:
            add(&statistics.byte_count, self.parser.affected_bytes(slot))
        if slot.throttled_ns:
            add(&statistics.throttled_count, 1)
            add(&statistics.throttled_ns, slot.throttled_ns)
        histogram_record(&statistics.queue_wait, interval(slot.popped_ns, slot.started_ns))
        histogram_record(&statistics.service, interval(slot.started_ns, slot.done_ns))
        add(&self.state.queues[slot.queue_index].used_count, 1)

    def record_many(self, uint32_t slot_index, uint32_t count, uint32_t slot_count=1):
        """Count so many requests, those in so many slots in turn: to measure and to test what `record` does."""
        cdef uint32_t index
        for index in range(count):
            self.record(&self.state.slots[slot_index + index % slot_count])

    def fill_slot(self, uint32_t slot_index, *, uint32_t operation, uint64_t wait_ns, uint64_t service_ns,
                  uint64_t length_bytes=0, uint32_t status=0, uint64_t throttled_ns=0, uint32_t queue_index=0,
                  uint32_t slot_state=0):
        """Make a slot up, as if its request had just been carried out: for tests and benchmarks."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef uint64_t now_ns = monotonic_ns()
        slot.state = slot_state
        slot.queue_index = <unsigned short>queue_index
        slot.operation = operation
        slot.length_bytes = length_bytes
        slot.status = status
        slot.throttled_ns = throttled_ns
        slot.done_ns = now_ns
        slot.started_ns = now_ns - service_ns
        slot.popped_ns = slot.started_ns - wait_ns
