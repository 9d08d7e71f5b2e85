from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.layout.slot cimport RequestSlot

cdef class InlineGate:
    cdef uint64_t limit_ns
    cdef bint is_quick                # those carried out inline of late took less than the limit
    cdef uint32_t quick_count         # so many in a row
    cdef uint32_t slow_score
    cdef uint64_t next_probe_ns       # when to try again after one that did not
    cdef uint64_t probe_interval_ns

    cdef bint allows(self, const RequestSlot *slot) noexcept nogil
    cdef void note(self, const RequestSlot *slot) noexcept nogil
