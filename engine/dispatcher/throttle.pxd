from libc.stdint cimport int64_t, uint32_t, uint64_t

from ringblk.shm.rates.account cimport RateAccount
from ringblk.shm.rates.limit cimport BUCKET_COUNT
from ringblk.shm.layout.region_set cimport RegionSet
from ringblk.shm.state.segment cimport QUEUE_LIMIT, StateSegment
from ringblk.shm.sync.clock cimport monotonic_ns

cdef enum:
    LANE_COUNT = 3         # reads, writes, operations without bytes
    HEAD_LIMIT = 192       # QUEUE_LIMIT * LANE_COUNT
    NO_POSITION = 0        # of a request that does not stand in an available ring as it was popped


cdef struct Lane:
    # Slots of one queue that draw from the same buckets, as they were popped.
    uint32_t first
    uint32_t last
    uint32_t count


cdef struct ThrottledQueue:
    Lane lanes[LANE_COUNT]
    uint64_t finish[BUCKET_COUNT]    # virtual time, in tokens: where the queue's next request begins
    int64_t waiting[BUCKET_COUNT]    # what its waiting requests cost


cdef struct Head:
    # The first request of a lane, while it is worked out which request begins next.
    uint32_t slot_index
    uint32_t queue_index
    uint32_t lane_index
    bint is_out                      # it does not begin now
    uint64_t mask                    # the limited buckets that it draws from
    uint64_t counter
    uint64_t length_bytes


cdef class Throttle:
    cdef StateSegment state
    cdef RateAccount account
    cdef ThrottledQueue queues[QUEUE_LIMIT]
    cdef uint32_t *next_slot
    cdef uint32_t *previous_slot
    cdef uint64_t *positions         # of a waiting slot: which of its queue's pops it was, or NO_POSITION
    cdef Head heads[HEAD_LIMIT]
    cdef uint32_t head_count
    cdef uint64_t now[BUCKET_COUNT]  # virtual time, in tokens: where the request that was begun last began
    cdef int64_t waiting[BUCKET_COUNT]
    cdef uint64_t waiting_queues     # bit i: queue i has something waiting
    cdef uint64_t offered            # requests that a test made up

    cdef bint admit(self, uint32_t slot_index, uint64_t position, uint64_t now_ns) noexcept nogil
    cdef int take_ready(self, uint64_t now_ns) noexcept nogil
    cdef uint32_t count_up_to(self, uint32_t queue_index, uint32_t lane_index, const RegionSet *regions) noexcept nogil
    cdef int take_first(self, uint32_t queue_index, uint64_t now_ns) noexcept nogil
    cdef uint32_t take_from(self, uint32_t queue_index, uint32_t lane_index, uint64_t now_ns) noexcept nogil
    cdef int drop_first(self, uint32_t queue_index) noexcept nogil
    cdef int take_back(self, uint32_t queue_index, uint64_t position) noexcept nogil
    cdef inline bint is_in_debt(self) noexcept nogil:
        """Whether nothing may be popped yet, for what went before its time."""
        return self.account.own.debt_mask != 0 and self.account.pay_debt(monotonic_ns())
    cdef inline bint is_full(self, uint32_t queue_index, uint32_t queue_count) noexcept nogil:
        """Whether a queue, one of so many, has enough waiting, so that nothing more is popped from it."""
        return (self.waiting_queues >> queue_index) & 1 and self._is_enough(queue_index, queue_count)
    cdef inline bint has_waiting(self) noexcept nogil:
        """Whether something waits for tokens, or a debt is to be paid."""
        return self.waiting_queues != 0 or self.account.own.debt_mask != 0
    cdef bint _is_enough(self, uint32_t queue_index, uint32_t queue_count) noexcept nogil
    cdef uint64_t wait_ns(self, uint64_t now_ns) noexcept nogil
    cdef Head *_choose(self, uint64_t now_ns) noexcept nogil
    cdef void _list_heads(self, uint64_t limited) noexcept nogil
    cdef int64_t _claim(self, uint32_t index) noexcept nogil
    cdef void _remove(self, uint32_t slot_index, uint32_t queue_index, uint32_t lane_index) noexcept nogil
    cdef void _begin(self, uint32_t slot_index, uint64_t mask) noexcept nogil
