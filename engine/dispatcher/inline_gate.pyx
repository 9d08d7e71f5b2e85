# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which requests the dispatcher carries out itself, because that takes less than waking a worker.

Measured on every one of them: after a very slow one, or several slow ones, all go to workers, until one is
tried again. The more often that fails, the longer it takes to the next try, up to a second.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.requests.request cimport SLOT_BRIEF

cdef enum:
    FIRST_PROBE_NS = 1000000
    LAST_PROBE_NS = 1000000000
    QUICK_RUN = 64             # quick ones in a row that make the interval the shortest again
    SLOW_WEIGHT = 8            # of a slow one, against a quick one
    SLOW_LIMIT = 24
    VERY_SLOW_FACTOR = 8       # of the limit: more than a moment's bad luck

cdef uint64_t NO_LIMIT = <uint64_t>-1


cdef class InlineGate:
    """`limit_ns`: what a request may take. 0: none is inline; the largest value: all are, without measuring."""

    def __init__(self, uint64_t limit_ns):
        self.limit_ns = limit_ns
        self.probe_interval_ns = FIRST_PROBE_NS

    cdef bint allows(self, const RequestSlot *slot) noexcept nogil:
        """Whether the dispatcher should carry this request out."""
        if self.limit_ns == NO_LIMIT:
            return True
        if self.limit_ns == 0 or not slot.flags & SLOT_BRIEF:
            return False
        return self.is_quick or slot.popped_ns >= self.next_probe_ns

    cdef void note(self, const RequestSlot *slot) noexcept nogil:
        """Learn from a request that was carried out inline."""
        cdef uint64_t took_ns = slot.done_ns - slot.started_ns
        if took_ns < self.limit_ns:
            self.is_quick = True
            self.quick_count += 1
            self.slow_score -= self.slow_score > 0
            if self.quick_count % QUICK_RUN == 0:
                self.probe_interval_ns = FIRST_PROBE_NS
            return
        self.slow_score += SLOW_WEIGHT
        self.quick_count = 0
        if self.is_quick and self.slow_score < SLOW_LIMIT and took_ns // VERY_SLOW_FACTOR < self.limit_ns:
            return
        self.is_quick = False
        self.slow_score = 0
        self.next_probe_ns = slot.done_ns + self.probe_interval_ns
        self.probe_interval_ns = min(2 * self.probe_interval_ns, <uint64_t>LAST_PROBE_NS)
