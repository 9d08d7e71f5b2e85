# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A drive with a base: what is written is in a layer of its own, the rest is read from those below and the base.

All but the top layer is only read, and any number of drives may have it. A layer is a folder (workers/layers): a
data file, in which each block of 4096 bytes stands at its own offset, and a map of the blocks that are in it. All
processes of the drive share the map and set bits in it without a lock. Whoever writes a part of a block that is not in
the top layer yet writes all of it; the dispatcher sees to it that nobody else changes that block meanwhile
(`block_size_bytes`).
"""

import os

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset
from posix.stdlib cimport posix_memalign
from posix.uio cimport iovec

from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.backends.asynchronous cimport STORAGE_FLUSH, STORAGE_READ, StorageRequest
from ringblk.workers.backends.layered cimport LayeredBackend
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.backends.range_cursor cimport Cursor, skip
from ringblk.workers.layers.map cimport (
    BLOCK_ABSENT, BLOCK_BYTES, BLOCK_PRESENT, BLOCK_SHIFT, BLOCK_ZERO, MapState,
)
from ringblk.workers.layers.stack cimport IN_BASE, IN_TOP, NOWHERE

cdef enum:
    MAX_RANGES = 1024         # IOV_MAX
    EDGE_RANGES = 2
    EDGE_ALIGN_BYTES = 4096


cdef class OverlayBackend(LayeredBackend):
    """The overlay in `folder` on the image at `base_path`; it is made where there is none.

    The base may be the folder of another overlay, and then that one's `snapshot`. A new one has `size_bytes`, or the
    base's size. What of a drive lies beyond its base reads as zeroes. `direct` is as FileBackend's, for all. Nothing is
    read or written before it is locked (`image_lock`) or `take_up` is called. Raises BackendError, which names the file.
    """

    def __cinit__(self, *_args, **_options):
        self.edges = NULL
        self.pieces = <iovec *>calloc(MAX_RANGES + EDGE_RANGES, sizeof(iovec))
        if self.pieces == NULL or posix_memalign(<void **>&self.edges, EDGE_ALIGN_BYTES, 2 * BLOCK_BYTES):
            raise MemoryError

    def __dealloc__(self):
        free(self.edges)
        free(self.pieces)

    def hand_over(self):
        """As of any; one of a class that is made from it is inherited only."""
        return LayeredBackend.hand_over(self) if type(self) is OverlayBackend else NativeBackend.hand_over(self)

    @staticmethod
    def of(opened):
        """That of an `OpenedOverlay`, which is this backend's from now on; `take_up` comes next."""
        cdef OverlayBackend backend = OverlayBackend.__new__(OverlayBackend)
        backend._fds = {}
        found, fds, backend.chain = opened
        backend._settle(found, fds)
        return backend

    @staticmethod
    def take(found, fds):
        """The same of what another process has handed over: the descriptors are this backend's from now on."""
        cdef OverlayBackend backend = OverlayBackend.__new__(OverlayBackend)
        backend._fds = {}
        by_name = dict(zip(found.fd_names, fds, strict=True))
        if not found.is_taken_up:   # another engine may have it: `use` comes when it is this one's
            backend._settle(found, by_name)
            return backend
        backend.use(found, by_name)
        backend.stack.note_unsaved()   # who had it before may have died
        return backend

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        """Read by runs of blocks that are in one place: most often it is one."""
        cdef uint64_t end_bytes = offset_bytes + length_bytes, until_bytes, block
        cdef uint64_t end_block = (end_bytes + BLOCK_BYTES - 1) >> BLOCK_SHIFT
        cdef Cursor cursor = Cursor(ranges, 0)
        cdef int place, result, count
        while offset_bytes < end_bytes:
            block = offset_bytes >> BLOCK_SHIFT
            until_bytes = min(end_bytes, (block + self.stack.run_length(block, end_block, &place)) << BLOCK_SHIFT)
            if place == IN_BASE and until_bytes > self.base_bytes:
                if offset_bytes < self.base_bytes:
                    until_bytes = self.base_bytes
                else:
                    place = NOWHERE
            if until_bytes - offset_bytes == length_bytes:
                return self._read_run(place, ranges, range_count, offset_bytes, length_bytes)
            count = cut(&cursor, ranges + range_count, until_bytes - offset_bytes, self.pieces)
            result = self._read_run(place, self.pieces, count, offset_bytes, until_bytes - offset_bytes)
            if result < 0:
                return result
            offset_bytes = until_bytes
        return 0

    cdef int _read_run(self, int place, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes) noexcept nogil:
        cdef int index, result
        if place == IN_TOP:
            return self.data.readv_at(ranges, range_count, offset_bytes, length_bytes)
        if place == IN_BASE:
            return self.base.readv_at(ranges, range_count, offset_bytes, length_bytes)
        if place < 0:
            return place
        if place != NOWHERE:
            self.sealed.fd = self.layer_fds[place]
            result = self.sealed.readv_at(ranges, range_count, offset_bytes, length_bytes)
            self.sealed.fd = -1
            return result
        for index in range(range_count):
            memset(ranges[index].iov_base, 0, ranges[index].iov_len)
        return 0

    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil:
        """Write the data, and where the first or last block is not in the layer yet, the rest of that block too."""
        cdef uint64_t before_bytes = 0, after_bytes = 0, half_bytes
        cdef Cursor cursor = Cursor(ranges, 0)
        cdef int count, result
        if length_bytes == 0:
            return 0
        if (offset_bytes | length_bytes) & (BLOCK_BYTES - 1):
            if range_count > MAX_RANGES - EDGE_RANGES:   # more than one call takes: the edges in one each
                half_bytes = 0
                for count in range(range_count // 2):
                    half_bytes += ranges[count].iov_len
                count = range_count // 2
                result = self.writev_at(ranges, count, offset_bytes, half_bytes, durable)
                if result < 0:
                    return result
                return self.writev_at(ranges + count, range_count - count, offset_bytes + half_bytes,
                                      length_bytes - half_bytes, durable)
            result = self._fill_edges(offset_bytes, offset_bytes + length_bytes, &before_bytes, &after_bytes)
            if result < 0:
                return result
        if before_bytes == 0 and after_bytes == 0:
            return self._write_data(ranges, range_count, offset_bytes, length_bytes, durable)
        count = 0
        if before_bytes:
            self.pieces[0].iov_base = self.edges
            self.pieces[0].iov_len = before_bytes
            count = 1
        count += cut(&cursor, ranges + range_count, length_bytes, self.pieces + count)
        if after_bytes:
            self.pieces[count].iov_base = self.edges + BLOCK_BYTES
            self.pieces[count].iov_len = after_bytes
            count += 1
        return self._write_data(self.pieces, count, offset_bytes - before_bytes,
                                before_bytes + length_bytes + after_bytes, durable)

    cdef int _fill_edges(self, uint64_t offset_bytes, uint64_t end_bytes, uint64_t *before_bytes,
                         uint64_t *after_bytes) noexcept nogil:
        """Read what a write leaves of its first and last block, where these are not in the layer."""
        cdef uint64_t first = offset_bytes >> BLOCK_SHIFT, last = (end_bytes - 1) >> BLOCK_SHIFT
        cdef int result
        if offset_bytes & (BLOCK_BYTES - 1) and self.map.state_of(first) != BLOCK_PRESENT:
            before_bytes[0] = offset_bytes & (BLOCK_BYTES - 1)
            result = self._read_old(first << BLOCK_SHIFT, before_bytes[0], self.edges)
            if result < 0:
                return result
        if end_bytes & (BLOCK_BYTES - 1) and self.map.state_of(last) != BLOCK_PRESENT:
            after_bytes[0] = BLOCK_BYTES - (end_bytes & (BLOCK_BYTES - 1))
            return self._read_old(end_bytes, after_bytes[0], self.edges + BLOCK_BYTES)
        return 0

    cdef int _read_old(self, uint64_t offset_bytes, uint64_t length_bytes, uint8_t *buffer) noexcept nogil:
        """Read a part of a block; what lies beyond the drive's end is zeroes."""
        cdef uint64_t inside_bytes = min(length_bytes, self.size_bytes - min(self.size_bytes, offset_bytes))
        cdef iovec range
        memset(buffer, 0, length_bytes)
        range.iov_base = buffer
        range.iov_len = inside_bytes
        return 0 if inside_bytes == 0 else self.readv_at(&range, 1, offset_bytes, inside_bytes)

    cdef int _write_data(self, const iovec *ranges, int range_count, uint64_t offset_bytes, uint64_t length_bytes,
                         bint durable) noexcept nogil:
        """Write, then say so in the map. All blocks but those that are in the layer are written whole."""
        cdef uint64_t first = offset_bytes >> BLOCK_SHIFT
        cdef uint64_t end = (offset_bytes + length_bytes + BLOCK_BYTES - 1) >> BLOCK_SHIFT
        cdef bint saves_map = durable and (not self.map.is_all(first, end, BLOCK_PRESENT)
                                           or self.map.is_unsaved(first, end))
        cdef int result = self.data.writev_at(ranges, range_count, offset_bytes, length_bytes,
                                              durable and not saves_map)
        if result == 0:
            result = min(0, self.map.add(first, end, BLOCK_PRESENT))
        if result == 0 and saves_map:
            result = self.journal.save(self.data.fd)
        return result

    cdef int flush_all(self) noexcept nogil:
        return self.stack.save(self.data.fd)

    cdef uint64_t _whole_end(self, uint64_t end_bytes) noexcept nogil:
        """The block behind the last that a range ends with; the drive's last is whole where the drive ends in it."""
        if end_bytes == self.size_bytes:
            return (end_bytes + BLOCK_BYTES - 1) >> BLOCK_SHIFT
        return end_bytes >> BLOCK_SHIFT

    cdef int discard_at(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        """Whole blocks become zeroes and their space is given back; parts of blocks stay."""
        return self._zero_blocks((offset_bytes + BLOCK_BYTES - 1) >> BLOCK_SHIFT,
                                 self._whole_end(offset_bytes + length_bytes), True)

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes,
                             bint may_unmap) noexcept nogil:
        """Whole blocks become zeroes, in the map where they are not in the layer; parts of blocks are written."""
        cdef uint64_t end_bytes = offset_bytes + length_bytes
        cdef uint64_t first = (offset_bytes + BLOCK_BYTES - 1) >> BLOCK_SHIFT, end = self._whole_end(end_bytes)
        cdef int result
        if first >= end:
            return NativeBackend.write_zeroes_at(self, offset_bytes, length_bytes, False)
        result = self._zero_blocks(first, end, may_unmap)
        if result == 0 and first << BLOCK_SHIFT > offset_bytes:
            result = NativeBackend.write_zeroes_at(self, offset_bytes, (first << BLOCK_SHIFT) - offset_bytes, False)
        if result == 0 and end_bytes > end << BLOCK_SHIFT:
            result = NativeBackend.write_zeroes_at(self, end << BLOCK_SHIFT, end_bytes - (end << BLOCK_SHIFT), False)
        return result

    cdef int _zero_blocks(self, uint64_t first, uint64_t end, bint may_unmap) noexcept nogil:
        """Blocks [first, end), whole. One that is in the layer stays there, with zeroes for data."""
        cdef uint64_t until
        cdef int state, result = 0
        while first < end and result == 0:
            until = first + self.map.run_length(first, end, &state)
            if state == BLOCK_PRESENT:
                result = self.data.write_zeroes_at(first << BLOCK_SHIFT, (until - first) << BLOCK_SHIFT, may_unmap)
            elif state == BLOCK_ABSENT:
                result = min(0, self.map.add(first, until, BLOCK_ZERO))
            first = until
        return result

    # Merges.

    def copy_up(self, uint64_t first, uint64_t end, buffer, bint with_base):
        """Have blocks [first, end) that the top has not in it as well, as they read now; how many bytes were copied.

        `with_base`: those of the base, too, which is to be needed no more; else those of layers alone. `buffer` is
        memory for whole blocks, as direct I/O wants it. Nobody else writes to the top. Raises `OSError`.
        """
        cdef uint8_t *memory = address_of(buffer)
        cdef uint64_t copied_bytes = 0, buffer_blocks = len(buffer) >> BLOCK_SHIFT
        cdef int result
        with nogil:
            result = self._copy_up(first, end, memory, buffer_blocks, with_base, &copied_bytes)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return copied_bytes

    cdef int _copy_up(self, uint64_t first, uint64_t end, uint8_t *memory, uint64_t buffer_blocks, bint with_base,
                      uint64_t *copied_bytes) noexcept nogil:
        cdef uint64_t until
        cdef int state, place, result = 0
        while first < end and result == 0:
            until = first + self.map.run_length(first, min(end, first + buffer_blocks), &state)
            if state == BLOCK_ABSENT:
                until = first + self.stack.run_below(first, until, &place)
                if place < 0:
                    return place
                if place == NOWHERE:
                    # What a layer without a base has not reads as zeroes anyway.
                    result = 0 if with_base else min(0, self.map.add(first, until, BLOCK_ZERO))
                elif place != IN_BASE or with_base:
                    result = self._copy_run(first, until, memory, place == IN_BASE, copied_bytes)
            first = until
        return result

    cdef int _copy_run(self, uint64_t first, uint64_t end, uint8_t *memory, bint may_be_left_out,
                       uint64_t *copied_bytes) noexcept nogil:
        cdef iovec range
        cdef int result
        range.iov_base = memory
        range.iov_len = min(self.size_bytes, end << BLOCK_SHIFT) - (first << BLOCK_SHIFT)
        result = self.readv_at(&range, 1, first << BLOCK_SHIFT, range.iov_len)
        if result < 0:
            return result
        if may_be_left_out and memory[0] == 0 and memcmp(memory, memory + 1, range.iov_len - 1) == 0:
            return 0
        copied_bytes[0] += range.iov_len
        result = self.writev_at(&range, 1, first << BLOCK_SHIFT, range.iov_len, False)
        crash_point("layers: blocks copied")
        return result

    cdef bint is_aligned(self, const iovec *ranges, int range_count, uint64_t offset_bytes) noexcept nogil:
        return self.data.is_aligned(ranges, range_count, offset_bytes)

    # Through io_uring.

    cdef int uring_fd(self, const StorageRequest *request) noexcept nogil:
        """The file that has all of the request: of a read the one place it is in, of a write of whole blocks the layer.

        What is more than one transfer and a change of the map is for the blocking form.
        """
        cdef uint64_t first = request.offset_bytes >> BLOCK_SHIFT
        cdef uint64_t end_bytes = request.offset_bytes + request.length_bytes
        cdef uint64_t end = (end_bytes + BLOCK_BYTES - 1) >> BLOCK_SHIFT
        cdef int place
        if request.operation == STORAGE_FLUSH:
            return -1 if self.stack.has_unsaved() else self.data.fd
        if request.operation == STORAGE_READ:
            if self.stack.run_length(first, end, &place) != end - first or place == NOWHERE or place < 0:
                return -1
            if place == IN_TOP:
                return self.data.uring_fd(request)
            if place == IN_BASE:
                return self.base.uring_fd(request) if end_bytes <= self.base_bytes else -1
            return self.layer_fds[place] if self.sealed.is_aligned(
                request.ranges, request.range_count, request.offset_bytes) else -1
        if (request.offset_bytes | request.length_bytes) & (BLOCK_BYTES - 1):
            return -1
        if request.is_durable and (not self.map.is_all(first, end, BLOCK_PRESENT) or self.map.is_unsaved(first, end)):
            return -1
        return self.data.uring_fd(request)

    cdef int note_written(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        """Whole blocks were written through `uring_fd`."""
        return min(0, self.map.add(offset_bytes >> BLOCK_SHIFT, (offset_bytes + length_bytes) >> BLOCK_SHIFT,
                                   BLOCK_PRESENT))


cdef int cut(Cursor *cursor, const iovec *end, size_t size_bytes, iovec *pieces) noexcept nogil:
    """Take the ranges of the next so many bytes out of a list; how many that are."""
    cdef int count = 0
    cdef size_t piece_bytes
    while size_bytes:
        piece_bytes = min(size_bytes, cursor.range.iov_len - cursor.offset_bytes)
        if piece_bytes:
            pieces[count].iov_base = <uint8_t *>cursor.range.iov_base + cursor.offset_bytes
            pieces[count].iov_len = piece_bytes
            count += 1
        size_bytes -= piece_bytes
        skip(cursor, end, piece_bytes)
    return count
