from libc.stdint cimport uint8_t, uint64_t

from ringblk.workers.layers.journal cimport MapUnit


cdef class SealedMap:
    cdef readonly int fd
    cdef readonly uint64_t block_count
    cdef uint64_t unit_count
    cdef uint64_t map_offset_bytes
    cdef object view          # keeps the mapping
    cdef const MapUnit *units
    cdef uint64_t *is_sound   # a bit for each unit: it was looked at
    cdef bint is_damaged      # a unit was waited for in vain: nobody waits for another

    cdef int state_of(self, uint64_t block) noexcept nogil
    cdef uint64_t run_length(self, uint64_t first, uint64_t end, int *state) noexcept nogil
    cdef bint _is_sound(self, uint64_t unit) noexcept nogil
    cdef uint64_t next_unit(self, uint64_t unit) noexcept nogil
