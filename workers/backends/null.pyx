# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A drive that keeps nothing: for measuring everything but storage."""

from libc.stdint cimport uint64_t
from libc.string cimport memset
from posix.uio cimport iovec

from ringblk.workers.backends.native cimport NativeBackend

from ringblk.workers.backends.answers import Waiting
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.open_storage import OpenNull
from ringblk.workers.backends.topology import drive_size_fault


cdef class NullBackend(NativeBackend):
    """Reads give zeroes, writes are forgotten.

    Reads do fill the buffers: a guest that finds its own stale memory on a drive could take it for a
    partition table, and 4 KiB of zeroes cost some 50 ns. Raises BackendError.
    """

    def __init__(self, size_bytes):
        if fault := drive_size_fault(size_bytes):
            raise BackendError(f"null backend: {fault}")
        self.size_bytes = size_bytes

    def waiting(self):
        """Nobody waits for memory."""
        return Waiting(may_block=False, reason="the backend is in memory")

    def hand_over(self):
        """Its size is all there is. One of a class that is made from it is inherited only."""
        if type(self) is not NullBackend:
            return NativeBackend.hand_over(self)
        return OpenNull(size_bytes=self.size_bytes), ()

    def resize(self, uint64_t size_bytes):
        """There is nothing that could not have another size."""
        self.size_bytes = size_bytes

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        cdef int index
        for index in range(range_count):
            memset(ranges[index].iov_base, 0, ranges[index].iov_len)
        return 0

    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil:
        return 0

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes,
                             bint may_unmap) noexcept nogil:
        return 0
