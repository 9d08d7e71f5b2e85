from libc.stdint cimport uint8_t, uint64_t
from posix.uio cimport iovec

from ringblk.workers.backends.layered cimport LayeredBackend


cdef class OverlayBackend(LayeredBackend):
    cdef uint8_t *edges       # what a write leaves of its first and last block
    cdef iovec *pieces        # a part of a request's ranges, EDGE_RANGES more than it may have

    cdef int _copy_up(self, uint64_t first, uint64_t end, uint8_t *memory, uint64_t buffer_blocks, bint with_base,
                      uint64_t *copied_bytes) noexcept nogil
    cdef int _copy_run(self, uint64_t first, uint64_t end, uint8_t *memory, bint may_be_left_out,
                       uint64_t *copied_bytes) noexcept nogil
    cdef int _read_run(self, int place, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes) noexcept nogil
    cdef int _read_old(self, uint64_t offset_bytes, uint64_t length_bytes, uint8_t *buffer) noexcept nogil
    cdef int _write_data(self, const iovec *ranges, int range_count, uint64_t offset_bytes, uint64_t length_bytes,
                         bint durable) noexcept nogil
    cdef int _fill_edges(self, uint64_t offset_bytes, uint64_t end_bytes, uint64_t *before_bytes,
                         uint64_t *after_bytes) noexcept nogil
    cdef int _zero_blocks(self, uint64_t first, uint64_t end, bint may_unmap) noexcept nogil
    cdef uint64_t _whole_end(self, uint64_t end_bytes) noexcept nogil
