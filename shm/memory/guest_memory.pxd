from libc.stdint cimport uint32_t, uint64_t, uint8_t

from ringblk.shm.sync.atomic cimport load_relaxed_64
from ringblk.shm.layout.slot cimport Range
from ringblk.shm.memory.dirty_log cimport DirtyLog
from ringblk.shm.state.segment cimport StateHeader, StateSegment


cdef struct MappedRegion:
    uint8_t *base          # of the region; NULL when there is none at this index
    uint8_t *mapping       # what was mapped: base, or some bytes before it for alignment
    uint64_t mapping_bytes
    uint64_t gpa
    uint64_t size_bytes
    uint64_t uva
    bint is_current        # in the region table; otherwise only mapped, for requests still in flight


cdef class GuestMemory:
    cdef MappedRegion *regions      # REGION_LIMIT of them
    cdef uint64_t *sorted_gpas      # where the current regions begin, in order,
    cdef uint32_t *sorted_indexes   # and which they are
    cdef uint32_t current_count
    cdef uint32_t last_hit
    cdef readonly uint32_t epoch
    cdef StateSegment state
    cdef StateHeader *header        # of the state segment; NULL: nothing is guarded
    cdef DirtyLog log               # where the front end wants to know what was written, if `is_logged`
    cdef readonly bint is_logged

    cdef int translate(self, uint64_t gpa, uint64_t length_bytes, Range *ranges, int room) noexcept nogil
    cdef bint holds(self, uint64_t gpa, uint64_t length_bytes) noexcept nogil
    cdef uint8_t *at_uva(self, uint64_t uva, uint64_t length_bytes) noexcept nogil
    cdef inline uint8_t *pointer(self, const Range *piece) noexcept nogil:
        return self.regions[piece.region_index].base + piece.offset_bytes
    cdef inline bint is_lost(self) noexcept nogil:
        """Whether some of the guest's memory is, so that what was read from it may be zeroes in its place."""
        return self.header != NULL and load_relaxed_64(&self.header.lost_words) != 0
    cdef void log_written(self, const Range *ranges, uint32_t range_count) noexcept nogil
    cdef void look_at(self, const Range *ranges, uint32_t range_count) noexcept nogil
    cdef void _unmap(self, MappedRegion *mapped) noexcept
    cdef int _find(self, uint64_t gpa) noexcept nogil
    cdef uint32_t _place_behind(self, uint64_t gpa) noexcept nogil
    cdef void _list(self, uint32_t region_index) noexcept
    cdef void _unlist(self, uint32_t region_index) noexcept
