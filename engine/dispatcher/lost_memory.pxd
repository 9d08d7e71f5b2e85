from libc.stdint cimport uint64_t

from ringblk.shm.layout.region_set cimport RegionSet
from ringblk.shm.state.segment cimport StateHeader, StateSegment

cdef class LostMemory:
    cdef StateSegment state
    cdef RegionSet told_regions      # of StateHeader.lost_regions, what `take` has given
    cdef bint has_told_regions       # whether that may have any
    cdef uint64_t told_inflight

    cdef bint has_news(self) noexcept nogil
