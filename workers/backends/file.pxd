from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from ringblk.workers.backends.native cimport NativeBackend


cdef class FileBackend(NativeBackend):
    cdef readonly bint direct
    cdef readonly str direct_refusal  # why it was asked for and is not so; None: it was not refused
    cdef readonly uint32_t memory_alignment_bytes
    cdef str direct_mode      # as it was asked for
    cdef bint is_block_device
    cdef bint durable_refused
    cdef uint64_t offset_mask  # 0 where any alignment will do
    cdef uint64_t memory_mask
    cdef uint8_t *bounce

    cdef be_file(self, found, int fd)
    cdef int transfer(self, const iovec *ranges, int range_count, uint64_t offset_bytes, bint writing,
                      bint durable) noexcept nogil
    cdef ssize_t transfer_some(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                               bint writing, bint durable) noexcept nogil
    cdef int transfer_bounced(self, const iovec *ranges, uint64_t offset_bytes, uint64_t length_bytes,
                              bint writing, bint durable) noexcept nogil
    cdef int transfer_bounce(self, uint64_t bounce_offset_bytes, uint64_t offset_bytes, uint64_t length_bytes,
                             bint writing, bint durable) noexcept nogil
    cdef int read_edges(self, uint64_t start_bytes, uint64_t end_bytes, uint64_t data_start_bytes,
                        uint64_t data_end_bytes) noexcept nogil
    cdef int write_zeroes_inside(self, uint64_t offset_bytes, uint64_t length_bytes,
                                 bint may_unmap) noexcept nogil
