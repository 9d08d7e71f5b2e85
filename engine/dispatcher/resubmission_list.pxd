from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef struct Resubmission:
    uint16_t queue_index
    uint16_t head_index
    uint64_t counter          # as the record had it


cdef class ResubmissionList:
    cdef Resubmission *entries
    cdef uint32_t first          # the oldest that was not taken
    cdef uint32_t end
    cdef uint32_t room

    cdef int add(self, uint32_t queue_index, uint32_t head_index, uint64_t counter) except -1
    cdef inline bint is_empty(self) noexcept nogil:
        return self.first == self.end
    cdef Resubmission *peek(self) noexcept nogil
    cdef void remove_first(self) noexcept nogil
