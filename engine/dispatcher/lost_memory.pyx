# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the dispatcher has told of the front end's memory that cannot be reached any more."""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.sync.atomic cimport clear_bits_64, load_relaxed_64
from ringblk.shm.layout.region_set cimport REGION_LIMIT, REGION_WORDS, has_region
from ringblk.shm.state.segment cimport StateHeader, StateSegment, forget_lost_regions


cdef class LostMemory:
    """Regions and in-flight region as the state segment has them, of which each is told once."""

    def __cinit__(self, StateSegment state):
        self.state = state

    cdef bint _has_news(self) noexcept nogil:
        """Whether a region was lost that nobody was told of yet."""
        cdef StateHeader *header = self.state.header
        cdef uint64_t lost
        cdef uint32_t word
        self.has_told_regions = False
        for word in range(<uint32_t>REGION_WORDS):
            lost = load_relaxed_64(&header.lost_regions.words[word])
            self.told_regions.words[word] &= lost   # the supervisor has forgotten the rest
            if lost:
                self.has_told_regions = True
            if lost != self.told_regions.words[word]:
                return True
        return False

    def take(self):
        """The lost regions, and a bit for each other part that is lost as well (`INFLIGHT`, `LOG` of guard.pyx)."""
        cdef StateHeader *header = self.state.header
        cdef uint32_t word
        for word in range(<uint32_t>REGION_WORDS):
            self.told_regions.words[word] = load_relaxed_64(&header.lost_regions.words[word])
        self.has_told_regions = True
        self.told_parts = load_relaxed_64(&header.lost_parts)
        lost_regions = [index for index in range(<uint32_t>REGION_LIMIT) if has_region(&self.told_regions, index)]
        return lost_regions, self.told_parts

    def forget_region(self, uint32_t region_index):
        """No request uses the region any more: its index may stand for another."""
        cdef uint64_t mask = (<uint64_t>1) << (region_index & 63)
        forget_lost_regions(self.state.header, region_index >> 6, mask)
        self.told_regions.words[region_index >> 6] &= ~mask

    def forget_part(self, uint64_t part):
        """Another takes its place, or none."""
        clear_bits_64(&self.state.header.lost_parts, part)
        self.told_parts &= ~part
