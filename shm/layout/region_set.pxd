# Sets of region indexes (shm/memory/guest_memory.pxd): a bit for each.

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    REGION_LIMIT = 1024   # region indexes: those in the table and those that wait for their last request
    REGION_WORDS = 16


cdef struct RegionSet:
    uint64_t words[REGION_WORDS]


cdef inline void add_region(RegionSet *regions, uint32_t region_index) noexcept nogil:
    regions.words[region_index >> 6] |= (<uint64_t>1) << (region_index & 63)


cdef inline bint has_region(const RegionSet *regions, uint32_t region_index) noexcept nogil:
    return (regions.words[region_index >> 6] >> (region_index & 63)) & 1


cdef inline RegionSet region_set(object mask):
    """The set that a Python int has as bits."""
    cdef RegionSet regions
    cdef uint32_t word
    for word in range(<uint32_t>REGION_WORDS):
        regions.words[word] = <uint64_t>(mask >> (64 * word) & 0xFFFFFFFFFFFFFFFF)
    return regions


cdef inline object region_mask(const RegionSet *regions):
    """A set as the bits of a Python int."""
    cdef uint32_t word
    mask = 0
    for word in range(<uint32_t>REGION_WORDS):
        mask |= <object>regions.words[word] << (64 * word)
    return mask
