# Mappings that may be lost: see guard.pyx.

from libc.stdint cimport uint64_t, uint8_t

from ringblk.shm.state.segment cimport StateHeader

cdef enum SharedPart:
    # What else than regions a front end shares: bits of StateHeader.lost_parts, negative in place of a region index.
    PART_INFLIGHT = 1
    PART_LOG = 2

cdef extern from * nogil:
    """
    static inline void look_at_byte(const volatile unsigned char *byte) { (void)*byte; }
    """
    void look_at_byte(const uint8_t *byte)

cdef int guard_mapping(uint8_t *mapping, uint64_t size_bytes, StateHeader *header, int region_index) noexcept nogil
cdef void unguard_mapping(uint8_t *mapping) noexcept nogil
cdef uint8_t *map_shared(int fd, uint64_t size_bytes, uint64_t offset_bytes) noexcept nogil
cdef uint8_t *map_zeroes(uint64_t size_bytes) noexcept nogil
