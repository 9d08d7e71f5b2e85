from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.rate_limit cimport RateLimit, RateLimitState, Reservation
from ringblk.shm.region_set cimport RegionSet
from ringblk.shm.state cimport QUEUE_LIMIT, StateSegment

cdef struct ThrottledQueue:
    # Slots of one queue that wait for tokens, in order; only the first has a reservation.
    uint32_t first
    uint32_t last
    uint32_t count
    uint64_t ready_ns
    Reservation reservation


cdef class Throttle:
    cdef StateSegment state
    cdef RateLimit limit
    cdef RateLimitState *buckets
    cdef bint is_shared
    cdef ThrottledQueue queues[QUEUE_LIMIT]
    cdef uint32_t *next_slot
    cdef uint64_t waiting_queues     # bit i: queue i has something waiting
    cdef uint64_t debt_until_ns      # when the tokens of all that went before its time will have been there
    cdef Reservation debt            # the last of it

    cdef bint admit(self, uint32_t slot_index, uint64_t now_ns) noexcept nogil
    cdef int take_ready(self, uint64_t now_ns) noexcept nogil
    cdef uint32_t count_up_to(self, uint32_t queue_index, const RegionSet *regions) noexcept nogil
    cdef uint32_t take_first(self, uint32_t queue_index, uint64_t now_ns) noexcept nogil
    cdef bint is_in_debt(self) noexcept nogil
    cdef uint64_t wait_ns(self, uint64_t now_ns) noexcept nogil
    cdef void _reserve(self, ThrottledQueue *queue, uint64_t now_ns) noexcept nogil
    cdef uint32_t _pop(self, uint32_t queue_index, uint64_t now_ns) noexcept nogil
