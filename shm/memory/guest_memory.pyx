# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Guest memory: the regions that a front end shares, and the way from an address to their bytes.

A region has an index that means the same in every process of the engine; a request names its memory by
index and offset. A region that leaves the table is no longer translated to, but stays mapped under its
index until the last request that uses it is done. `epoch` counts additions: a request carries the epoch it
was resolved with, and a process that has not come that far yet reads its channel first.

A front end that moves its guest has what is written marked in a log (dirty_log.pyx).

Where a state segment is given, the mappings are guarded (guard.pyx): memory that the front end takes from
under them reads as zeroes, and `is_lost` tells.
"""

import mmap
import os

from libc.errno cimport E2BIG, EFAULT
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset
from posix.mman cimport munmap

from ringblk.shm.memory.guard cimport guard_mapping, look_at_byte, map_shared, map_zeroes, unguard_mapping
from ringblk.shm.layout.region_set cimport REGION_LIMIT
from ringblk.shm.state.segment cimport StateSegment, note_lost_region

from ringblk.shm.memory.region import RegionError

cdef uint64_t ADDRESS_LIMIT = 0xFFFFFFFFFFFFFFFF
cdef uint64_t PAGE_BYTES = mmap.PAGESIZE


cdef class GuestMemory:
    """The mapped regions of one front end's memory, in one process."""

    def __cinit__(self, StateSegment state=None):
        self.state = state
        self.header = NULL if state is None else state.header
        self.regions = <MappedRegion *>calloc(REGION_LIMIT, sizeof(MappedRegion))
        self.sorted_gpas = <uint64_t *>calloc(REGION_LIMIT, sizeof(uint64_t))
        self.sorted_indexes = <uint32_t *>calloc(REGION_LIMIT, sizeof(uint32_t))
        if self.regions == NULL or self.sorted_gpas == NULL or self.sorted_indexes == NULL:
            raise MemoryError
        self.current_count = 0
        self.last_hit = 0
        self.epoch = 0

    def __dealloc__(self):
        cdef uint32_t index
        if self.regions != NULL:
            for index in range(<uint32_t>REGION_LIMIT):
                if self.regions[index].mapping != NULL:
                    self._unmap(&self.regions[index])
        free(self.regions)
        free(self.sorted_gpas)
        free(self.sorted_indexes)

    def add(self, uint32_t region_index, region, int fd, uint32_t epoch, *, bint or_lost=False):
        """Map `region` from `fd` (which stays the caller's) and put it into the table under `region_index`.

        Raises `RegionError` when the index is taken or the region cannot be mapped. With `or_lost` one that
        cannot be mapped is lost instead: for memory that could be mapped when the front end gave it.
        """
        if region_index >= REGION_LIMIT or self.regions[region_index].mapping != NULL:
            raise RegionError(f"region index {region_index} is not free")
        align_bytes = max(mmap.PAGESIZE, os.fstat(fd).st_blksize)   # hugetlbfs wants its own page size
        start_bytes = region.mmap_offset_bytes - region.mmap_offset_bytes % align_bytes
        before_bytes = region.mmap_offset_bytes - start_bytes
        cdef size_t mapping_bytes = -(-(before_bytes + region.size_bytes) // align_bytes) * align_bytes
        cdef uint8_t *mapping = map_shared(fd, mapping_bytes, start_bytes)
        if mapping == NULL and or_lost and self.header != NULL:
            mapping = map_zeroes(mapping_bytes)
            note_lost_region(self.header, region_index)
        if mapping == NULL:
            raise RegionError(f"cannot map {region}")
        cdef MappedRegion *mapped = &self.regions[region_index]
        mapped.mapping = mapping
        mapped.mapping_bytes = mapping_bytes
        mapped.base = mapped.mapping + <size_t>before_bytes
        mapped.gpa = region.gpa
        mapped.size_bytes = region.size_bytes
        mapped.uva = region.uva
        if self.header != NULL and guard_mapping(mapping, mapping_bytes, self.header, <int>region_index) < 0:
            self._unmap(mapped)
            raise RegionError("too many regions are mapped")
        self.epoch = max(self.epoch, epoch)
        self._list(region_index)

    def skip(self, uint32_t epoch):
        """A region of this epoch has come and gone; no request uses it any more."""
        self.epoch = max(self.epoch, epoch)

    def remove(self, uint32_t region_index):
        """Take a region out of the table; it stays mapped for requests in flight until `unmap`."""
        if region_index < REGION_LIMIT:
            self._unlist(region_index)

    def unmap(self, uint32_t region_index):
        """Unmap a region that no request uses any more and free its index."""
        if region_index >= REGION_LIMIT:
            return
        cdef MappedRegion *mapped = &self.regions[region_index]
        self._unlist(region_index)
        if mapped.mapping != NULL:
            self._unmap(mapped)

    cdef void _unmap(self, MappedRegion *mapped) noexcept:
        unguard_mapping(mapped.mapping)
        munmap(mapped.mapping, mapped.mapping_bytes)
        memset(mapped, 0, sizeof(MappedRegion))

    def set_log(self, DirtyLog log):
        """Have what is written marked in this log from now on, or nowhere (None)."""
        self.is_logged = False
        self.log = log
        self.is_logged = log is not None

    cdef void log_written(self, const Range *ranges, uint32_t range_count) noexcept nogil:
        """Mark these ranges, where there is a log; after they were written."""
        cdef uint32_t index
        for index in range(range_count):
            self.log.mark(self.regions[ranges[index].region_index].gpa + ranges[index].offset_bytes,
                          ranges[index].length_bytes)

    def is_mapped(self, uint32_t region_index):
        """Whether there is a region under this index, in the table or waiting for its last request."""
        return region_index < REGION_LIMIT and self.regions[region_index].mapping != NULL

    def ranges(self, uint64_t gpa, uint64_t length_bytes):
        """The `(region_index, offset_bytes, length_bytes)` pieces behind a guest physical range.

        Raises `ValueError` when any byte of it is outside the table.
        """
        cdef Range pieces[REGION_LIMIT]
        cdef int count = self.translate(gpa, length_bytes, pieces, REGION_LIMIT)
        if count < 0:
            raise ValueError(f"guest physical range {gpa:#x}+{length_bytes:#x} is outside the guest's memory")
        return [(pieces[i].region_index, pieces[i].offset_bytes, pieces[i].length_bytes) for i in range(count)]

    cdef uint32_t _place_behind(self, uint64_t gpa) noexcept nogil:
        """How many current regions begin at `gpa` or before it."""
        cdef uint32_t low = 0, high = self.current_count, middle
        while low < high:
            middle = (low + high) >> 1
            if self.sorted_gpas[middle] <= gpa:
                low = middle + 1
            else:
                high = middle
        return low

    cdef void _list(self, uint32_t region_index) noexcept:
        """Put a region into the table."""
        cdef MappedRegion *region = &self.regions[region_index]
        cdef uint32_t place = self._place_behind(region.gpa), moved = self.current_count - place
        memmove(self.sorted_gpas + place + 1, self.sorted_gpas + place, moved * sizeof(uint64_t))
        memmove(self.sorted_indexes + place + 1, self.sorted_indexes + place, moved * sizeof(uint32_t))
        self.sorted_gpas[place] = region.gpa
        self.sorted_indexes[place] = region_index
        region.is_current = True
        self.current_count += 1

    cdef void _unlist(self, uint32_t region_index) noexcept:
        """Take a region out of the table, if it is in it."""
        cdef MappedRegion *region = &self.regions[region_index]
        cdef uint32_t place, moved
        if not region.is_current:
            return
        place = self._place_behind(region.gpa) - 1   # regions of a table do not overlap
        moved = self.current_count - place - 1
        memmove(self.sorted_gpas + place, self.sorted_gpas + place + 1, moved * sizeof(uint64_t))
        memmove(self.sorted_indexes + place, self.sorted_indexes + place + 1, moved * sizeof(uint32_t))
        region.is_current = False
        self.current_count -= 1

    cdef void look_at(self, const Range *ranges, uint32_t range_count) noexcept nogil:
        """Touch every page of the ranges, so that what is lost is found out: the kernel's own EFAULT tells nobody."""
        cdef uint32_t index
        cdef uint64_t offset_bytes
        cdef uint8_t *start
        for index in range(range_count):
            start = self.pointer(ranges + index)
            offset_bytes = 0
            while offset_bytes < ranges[index].length_bytes:
                look_at_byte(start + offset_bytes)
                offset_bytes += PAGE_BYTES
            if ranges[index].length_bytes:
                look_at_byte(start + ranges[index].length_bytes - 1)

    cdef int _find(self, uint64_t gpa) noexcept nogil:
        """The index of the current region that holds `gpa`, or -1."""
        cdef MappedRegion *region = &self.regions[self.last_hit]
        cdef uint32_t place, index
        if region.is_current and gpa - region.gpa < region.size_bytes:
            return <int>self.last_hit
        place = self._place_behind(gpa)
        if place == 0:
            return -1
        index = self.sorted_indexes[place - 1]
        region = &self.regions[index]
        if gpa - region.gpa >= region.size_bytes:
            return -1
        self.last_hit = index
        return <int>index

    cdef int translate(self, uint64_t gpa, uint64_t length_bytes, Range *ranges, int room) noexcept nogil:
        """Resolve a guest physical range into at most `room` pieces; their number, -EFAULT or -E2BIG.

        Each piece ends with its region, so pieces are at most one a region; each is below 4 GiB, as the
        length of a descriptor is.
        """
        cdef int count = 0, index
        cdef uint64_t piece_bytes
        cdef MappedRegion *region
        if length_bytes and length_bytes - 1 > ADDRESS_LIMIT - gpa:
            return -EFAULT
        while length_bytes > 0:
            index = self._find(gpa)
            if index < 0:
                return -EFAULT
            if count == room:
                return -E2BIG
            region = &self.regions[index]
            piece_bytes = region.size_bytes - (gpa - region.gpa)
            if piece_bytes > length_bytes:
                piece_bytes = length_bytes
            ranges[count].region_index = <uint32_t>index
            ranges[count].offset_bytes = gpa - region.gpa
            ranges[count].length_bytes = <uint32_t>piece_bytes
            count += 1
            gpa += piece_bytes
            length_bytes -= piece_bytes
        return count

    cdef bint holds(self, uint64_t gpa, uint64_t length_bytes) noexcept nogil:
        """Whether all of a guest physical range lies in current regions."""
        cdef Range piece
        cdef int result = -E2BIG
        while result == -E2BIG:
            result = self.translate(gpa, length_bytes, &piece, 1)
            if result == -E2BIG:   # there is more of it, behind this piece
                gpa += piece.length_bytes
                length_bytes -= piece.length_bytes
        return result >= 0

    cdef uint8_t *at_uva(self, uint64_t uva, uint64_t length_bytes) noexcept nogil:
        """The bytes at a front end's own address, or NULL where they are not within one current region."""
        cdef uint32_t place
        cdef MappedRegion *region
        for place in range(self.current_count):
            region = &self.regions[self.sorted_indexes[place]]
            if uva - region.uva < region.size_bytes:
                if length_bytes > region.size_bytes - (uva - region.uva):
                    return NULL
                return region.base + (uva - region.uva)
        return NULL

