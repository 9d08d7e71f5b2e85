# The dirty log: see dirty_log.pyx.

from libc.stdint cimport uint64_t, uint8_t


cdef class DirtyLog:
    cdef object view           # keeps the mapping
    cdef uint8_t *bits
    cdef uint64_t page_count

    cdef void mark(self, uint64_t gpa, uint64_t length_bytes) noexcept nogil
