from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    ID_RANGE_LIMIT = 64

cdef enum IdTarget:
    ID_SHIFTED = 0      # the first becomes `target`, the second the one after it...
    ID_SQUASHED = 1     # all become `target`
    ID_FORBIDDEN = 2


cdef struct IdRange:
    uint64_t first
    uint64_t end
    uint32_t target
    uint32_t kind


cdef class IdMap:
    cdef uint32_t count
    cdef IdRange ranges[ID_RANGE_LIMIT]

    cdef int64_t translate(self, uint32_t number) noexcept nogil
