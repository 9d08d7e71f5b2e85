# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which requests the dispatcher carries out itself, because that takes less than waking a worker.

Measured on every one of them: after a slow one all go to workers, until one is tried again. The more often
that fails, the longer it takes to the next try, up to a second.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.slot cimport RequestSlot
from ringblk.workers.request cimport SLOT_BRIEF

cdef enum:
    FIRST_PROBE_NS = 1000000
    LAST_PROBE_NS = 1000000000
    QUICK_RUN = 64             # quick ones in a row that make the interval the shortest again

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
        if slot.done_ns - slot.started_ns < self.limit_ns:
            self.is_quick = True
            self.quick_count += 1
            if self.quick_count % QUICK_RUN == 0:
                self.probe_interval_ns = FIRST_PROBE_NS
            return
        self.is_quick = False
        self.quick_count = 0
        self.next_probe_ns = slot.done_ns + self.probe_interval_ns
        self.probe_interval_ns = min(2 * self.probe_interval_ns, <uint64_t>LAST_PROBE_NS)
