# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The map of what has changed of a drive, in a mapped file that all of its processes share.

A bit for each block, set before the block is written to, so that a process may die at any instruction. Bits are only
ever set while the drive is served, so nobody locks. There are two maps, of which one is written to. Who sets a point has
the other one written to from then on, and keeps what the first has: so a change that is under way at that moment is
noted once more when it ends, in the map that is written to then.

A power failure may lose any part of a mapped file. So a drive has regions besides, at least 64 MiB each, and the file
`regions` has the bit of each region durably before anything in it is written to: after a power failure all of such a
region counts as changed.
"""

import mmap
import os

from libc.errno cimport EINTR, EOPNOTSUPP, ENOSYS, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from ringblk.shm.sync.atomic cimport (
    full_fence, load_acquire_64, load_relaxed_64, set_bits_64, store_release_64,
)
from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.files.file_calls cimport lock_for_writing, sync_data, write_ranges, write_ranges_durably

from ringblk.workers.changes.tracker_form import ChangesLayout


cdef class ChangeTracker:
    """The maps of a drive of `size_bytes`, in files that are as large as the form says and stay the caller's."""

    def __init__(self, int regions_fd, int changes_fd, uint64_t size_bytes):
        layout = ChangesLayout.of(size_bytes)
        cdef uint8_t *memory
        self.regions_fd = regions_fd
        self.changes_fd = changes_fd
        self.size_bytes = size_bytes
        self.view = memoryview(mmap.mmap(changes_fd, layout.file_bytes))
        memory = address_of(self.view)
        self.header = <ChangesHeader *>memory
        self.regions = <uint64_t *>(memory + REGION_BYTES_OFFSET)
        self.maps[0] = <uint64_t *>(memory + <size_t>layout.map_offsets[0])
        self.maps[1] = <uint64_t *>(memory + <size_t>layout.map_offsets[1])
        self.map_words = layout.map_bytes // 8
        self.region_shift = layout.region_shift

    # For who has the tracker's folder locked.

    def content(self):
        """All that either map has."""
        cdef bytearray both = bytearray(self.map_words * 8)
        cdef uint64_t *words = <uint64_t *>address_of(memoryview(both))
        cdef uint64_t index
        for index in range(self.map_words):
            words[index] = load_acquire_64(&self.maps[0][index]) | load_acquire_64(&self.maps[1][index])
        return bytes(both)

    def add(self, bytes content):
        """Have these blocks in the map that is written to."""
        cdef const uint8_t *source = content
        cdef uint64_t *target = self.maps[self.header.generation & 1]
        cdef uint64_t index, bits
        assert <uint64_t>len(content) == self.map_words * 8
        for index in range(self.map_words):
            memcpy(&bits, source + index * 8, 8)
            if bits:
                set_bits_64(&target[index], bits)

    def turn(self):
        """Have the other map written to; what both have, of which the first has all that was begun before."""
        cdef uint64_t generation = self.header.generation
        # Release, then a fence: a change whose end sees the old generation has set its bits before we look.
        store_release_64(&self.header.generation, generation + 1)
        full_fence()
        return self.content()

    def clear_other(self):
        """Have nothing in the map that is not written to: it was kept elsewhere."""
        memset(self.maps[(self.header.generation & 1) ^ 1], 0, self.map_words * 8)

    def forget_regions(self):
        """At the beginning: no region is in the file durably."""
        memset(self.regions, 0, MAX_REGIONS // 8)

    def mark(self, uint64_t offset_bytes, uint64_t length_bytes):
        """Note a change, begun and ended. Raises `OSError`."""
        cdef int result = self.begin_change(offset_bytes, length_bytes)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        self.end_change(offset_bytes, length_bytes)

    # For requests.

    cdef int begin_change(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        """Something is about to be written there: 0, or a negative errno, and then it must not be."""
        cdef uint64_t region, last
        cdef int result
        if length_bytes == 0:
            return 0
        last = (offset_bytes + length_bytes - 1) >> self.region_shift
        for region in range(offset_bytes >> self.region_shift, last + 1):
            result = self._have_region(region)
            if result < 0:
                return result
        self._set(offset_bytes >> BLOCK_SHIFT, ((offset_bytes + length_bytes - 1) >> BLOCK_SHIFT) + 1)
        crash_point("changes: noted, not written")
        return 0

    cdef void end_change(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        """It was written, and nobody has been told: a point may have been set meanwhile."""
        if length_bytes == 0:
            return
        crash_point("changes: written, not noted again")
        full_fence()   # pairs with that of `turn`
        self._set(offset_bytes >> BLOCK_SHIFT, ((offset_bytes + length_bytes - 1) >> BLOCK_SHIFT) + 1)

    cdef void _set(self, uint64_t first, uint64_t end) noexcept nogil:
        cdef uint64_t *words = self.maps[load_acquire_64(&self.header.generation) & 1]   # pairs with `turn`
        cdef uint64_t word, until, mask
        while first < end:
            word = first >> 6
            until = min(end, (word + 1) << 6)
            mask = <uint64_t>-1 if until - first == 64 else ((<uint64_t>1 << (until - first)) - 1) << (first & 63)
            if (load_relaxed_64(&words[word]) & mask) != mask:
                set_bits_64(&words[word], mask)
            first = until

    cdef int _have_region(self, uint64_t region) noexcept nogil:
        """Have a region in the file before anything is written to it."""
        cdef int result
        if (load_acquire_64(&self.regions[region >> 6]) >> (region & 63)) & 1:
            return 0
        while lock_for_writing(self.regions_fd, True) != 0:
            if errno != EINTR:
                return -errno
        result = self._write_region(region)
        lock_for_writing(self.regions_fd, False)
        return result

    cdef int _write_region(self, uint64_t region) noexcept nogil:
        """Under the lock, so that no other's bit of the same sector is lost."""
        cdef uint64_t sector = region // SECTOR_REGIONS
        cdef uint8_t content[SECTOR_BYTES]
        cdef iovec range
        cdef ssize_t count
        memcpy(content, <uint8_t *>self.regions + sector * SECTOR_BYTES, SECTOR_BYTES)
        content[(region % SECTOR_REGIONS) >> 3] |= <uint8_t>(1 << (region & 7))
        range.iov_base = content
        range.iov_len = SECTOR_BYTES
        while True:
            count = write_ranges_durably(self.regions_fd, &range, 1, (sector + 1) * SECTOR_BYTES)
            if count < 0 and (errno == EOPNOTSUPP or errno == ENOSYS):
                count = write_ranges(self.regions_fd, &range, 1, (sector + 1) * SECTOR_BYTES)
                if count >= 0 and sync_data(self.regions_fd) != 0:
                    count = -1
            if count == SECTOR_BYTES:
                break
            if count >= 0:
                return -5   # EIO: a sector is written whole
            if errno != EINTR:
                return -errno
        crash_point("changes: region durable")
        # Release: who sees the bit writes to the region.
        set_bits_64(&self.regions[region >> 6], <uint64_t>1 << (region & 63))
        return 0
