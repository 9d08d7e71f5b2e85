# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests that wait for tokens, between being popped and being handed over.

A queue's throttled requests keep their order: the first draws its tokens ahead of time (a reservation says
when it may begin), the others wait behind it. What needs no tokens does not wait. Nothing here is shared: a
waiting request is a PREPARED slot, and the next dispatcher throttles it anew.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ringblk.shm.clock cimport monotonic_ns
from ringblk.shm.rate_limit cimport (
    RateLimit, rate_limit_applies, rate_limit_cancel, rate_limit_changed, rate_limit_reserve,
)
from ringblk.shm.region_set cimport RegionSet
from ringblk.shm.slot cimport RequestSlot
from ringblk.shm.state cimport QUEUE_LIMIT, StateSegment

cdef enum:
    # A change of a group's limit by another engine is not announced: look that often while waiting.
    SHARED_LOOK_NS = 20000000

cdef uint64_t NEVER = <uint64_t>-1


cdef class Throttle:
    """The drive's limit, or that of the group it belongs to (`is_shared`)."""

    def __cinit__(self, StateSegment state, RateLimit limit, bint is_shared):
        self.state = state
        self.limit = limit
        self.buckets = limit.state
        self.is_shared = is_shared
        memset(self.queues, 0, sizeof(self.queues))
        self.next_slot = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        if self.next_slot == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.next_slot)

    cdef bint admit(self, uint32_t slot_index, uint64_t now_ns) noexcept nogil:
        """Whether the request may begin now; otherwise it waits here."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef ThrottledQueue *queue = &self.queues[slot.queue_index]
        if slot.charge_kind == 0 or not rate_limit_applies(self.buckets, slot.charge_kind):
            return True
        if queue.count == 0:
            queue.first = slot_index
            self._reserve(queue, now_ns)
            if queue.ready_ns <= now_ns:
                return True
            self.waiting_queues |= (<uint64_t>1) << slot.queue_index
        else:
            self.next_slot[queue.last] = slot_index
        queue.last = slot_index
        queue.count += 1
        return False

    cdef void _reserve(self, ThrottledQueue *queue, uint64_t now_ns) noexcept nogil:
        """Draw for the queue's first request."""
        cdef RequestSlot *slot = &self.state.slots[queue.first]
        cdef uint64_t wait_ns = rate_limit_reserve(self.buckets, slot.charge_kind, slot.length_bytes, now_ns,
                                                   &queue.reservation)
        if wait_ns >= NEVER - now_ns:
            rate_limit_cancel(self.buckets, &queue.reservation)
            queue.ready_ns = NEVER
        else:
            queue.ready_ns = now_ns + wait_ns

    cdef int take_ready(self, uint64_t now_ns) noexcept nogil:
        """A slot that has waited long enough, or -1. Reservations made under other settings are made anew."""
        cdef uint32_t index
        cdef ThrottledQueue *queue
        if self.waiting_queues == 0:
            return -1
        for index in range(<uint32_t>QUEUE_LIMIT):
            if not (self.waiting_queues >> index) & 1:
                continue
            queue = &self.queues[index]
            if queue.ready_ns > now_ns and rate_limit_changed(self.buckets, &queue.reservation):
                rate_limit_cancel(self.buckets, &queue.reservation)
                self._reserve(queue, now_ns)
            if queue.ready_ns <= now_ns:
                return <int>self._pop(index, now_ns)
        return -1

    cdef uint32_t count_up_to(self, uint32_t queue_index, const RegionSet *regions) noexcept nogil:
        """How many of a queue's waiting requests there are up to the last that lies in one of these regions."""
        cdef ThrottledQueue *queue = &self.queues[queue_index]
        cdef uint32_t place, count = 0, slot_index = queue.first
        for place in range(queue.count):
            if self.state.lies_in(slot_index, regions):
                count = place + 1
            slot_index = self.next_slot[slot_index]
        return count

    cdef uint32_t take_first(self, uint32_t queue_index, uint64_t now_ns) noexcept nogil:
        """A queue's first slot (there must be one), before its time. Its tokens are drawn all the same: a debt."""
        cdef ThrottledQueue *queue = &self.queues[queue_index]
        if self.debt_until_ns < queue.ready_ns < NEVER:
            self.debt_until_ns = queue.ready_ns
            self.debt = queue.reservation
        return self._pop(queue_index, now_ns)

    cdef bint is_in_debt(self) noexcept nogil:
        """Whether nothing new may be popped yet: or who stops its queues again and again would have no limit."""
        if self.debt_until_ns and (self.debt_until_ns <= monotonic_ns() or rate_limit_changed(self.buckets, &self.debt)):
            self.debt_until_ns = 0
        return self.debt_until_ns != 0

    cdef uint32_t _pop(self, uint32_t queue_index, uint64_t now_ns) noexcept nogil:
        """Let the queue's first request go, and draw for the next."""
        cdef ThrottledQueue *queue = &self.queues[queue_index]
        cdef RequestSlot *slot = &self.state.slots[queue.first]
        cdef uint32_t slot_index = queue.first
        slot.throttled_ns = now_ns - slot.popped_ns
        queue.first = self.next_slot[queue.first]
        queue.count -= 1
        if queue.count:
            self._reserve(queue, now_ns)
        else:
            self.waiting_queues &= ~((<uint64_t>1) << queue_index)
        return slot_index

    cdef uint64_t wait_ns(self, uint64_t now_ns) noexcept nogil:
        """How long until `take_ready` has something or a debt is over; the largest value if there is neither."""
        cdef uint32_t index
        cdef uint64_t ready_ns = NEVER
        if self.debt_until_ns:
            ready_ns = self.debt_until_ns
        elif self.waiting_queues == 0:
            return NEVER
        for index in range(<uint32_t>QUEUE_LIMIT):
            if (self.waiting_queues >> index) & 1 and self.queues[index].ready_ns < ready_ns:
                ready_ns = self.queues[index].ready_ns
        if ready_ns <= now_ns:
            return 0
        if self.is_shared and ready_ns - now_ns > SHARED_LOOK_NS:
            return SHARED_LOOK_NS
        return ready_ns - now_ns
