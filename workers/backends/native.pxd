from libc.stdint cimport uint32_t, uint64_t
from posix.uio cimport iovec

from ringblk.workers.backends.asynchronous cimport AsyncForm, StorageRequest


cdef class NativeBackend:
    cdef readonly uint64_t size_bytes
    cdef readonly bint read_only
    cdef readonly uint32_t block_size_bytes  # what requests should be multiples of
    cdef readonly object topology  # BlockTopology
    cdef readonly int fd              # where io_uring writes (`uring_fd`); -1: there is nothing for an io_uring
    cdef readonly AsyncForm form      # begins requests without waiting, once it was started here; None: there is none

    # All of these but the checks give 0 or a negative errno, and do all of it or fail. Ranges lie
    # within size_bytes: the caller has checked that, and that length_bytes is the sum of the ranges' lengths.
    # (Cython has one namespace for C and Python methods; flush, discard and write_zeroes are the latter.)
    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil
    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil
    cdef int flush_all(self) noexcept nogil
    cdef int discard_at(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil
    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes,
                             bint may_unmap) noexcept nogil

    # Whether a request can go straight between these ranges and `fd`.
    cdef bint is_aligned(self, const iovec *ranges, int range_count, uint64_t offset_bytes) noexcept nogil
    # The descriptor on which a positioned read or write or fdatasync(2) is all of the request; -1: none is.
    cdef int uring_fd(self, const StorageRequest *request) noexcept nogil
    # A write that `uring_fd` was asked for is done, and nobody was told: 0, or a negative errno.
    cdef int note_written(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil

    cdef int check_range(self, uint64_t offset_bytes, uint64_t length_bytes) except -1  # ValueError
    cdef int check_write(self, uint64_t offset_bytes, uint64_t length_bytes) except -1  # OSError too
