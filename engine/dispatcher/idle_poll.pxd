from libc.stdint cimport uint32_t, uint64_t

cdef class IdlePoll:
    cdef uint64_t poll_ns
    cdef uint64_t start_ns
    cdef uint64_t last_ns
    cdef uint32_t skip_count      # polls still to be left out
    cdef uint32_t last_skip

    cdef bint begin(self) noexcept nogil
    cdef bint goes_on(self) noexcept nogil
    cdef void found(self) noexcept nogil
