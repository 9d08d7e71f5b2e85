from libc.stdint cimport uint64_t

from ringblk.shm.layout.region_set cimport RegionSet
from ringblk.shm.state.segment cimport StateHeader, StateSegment
from ringblk.shm.sync.atomic cimport load_relaxed_64

cdef class LostMemory:
    cdef StateSegment state
    cdef RegionSet told_regions      # of StateHeader.lost_regions, what `take` has given
    cdef bint has_told_regions       # whether that may have any
    cdef uint64_t told_parts         # of StateHeader.lost_parts

    cdef inline bint has_news(self) noexcept nogil:
        """Whether memory was lost that nobody was told of yet."""
        if load_relaxed_64(&self.state.header.lost_parts) != self.told_parts:
            return True
        if load_relaxed_64(&self.state.header.lost_words) == 0 and not self.has_told_regions:
            return False
        return self._has_news()
    cdef bint _has_news(self) noexcept nogil
