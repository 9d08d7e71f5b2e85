# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A drive in memory that all workers share and that is gone when the engine ends."""

import mmap

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.workers.backends.native cimport NativeBackend

from ringblk.workers.backends.answers import Waiting
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.topology import drive_size_fault

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <sys/mman.h>
    #ifdef MADV_REMOVE
    static inline int give_back(void *memory, size_t size) { return madvise(memory, size, MADV_REMOVE); }
    #else
    static inline int give_back(void *memory, size_t size) { errno = EOPNOTSUPP; return -1; }
    #endif
    """
    int give_back(void *memory, size_t size_bytes)


cdef class MemoryBackend(NativeBackend):
    """`size_bytes` of zeroes, mapped here and shared with every worker that is forked later.

    Memory is taken as it is written and given back when it is discarded. Raises BackendError.
    """

    cdef object view              # keeps the mapping
    cdef uint8_t *memory
    cdef uint64_t page_mask

    def __init__(self, size_bytes):
        if fault := drive_size_fault(size_bytes):
            raise BackendError(f"memory backend: {fault}")
        try:
            self.view = memoryview(mmap.mmap(-1, size_bytes))
        except (OSError, OverflowError) as error:
            raise BackendError(f"memory backend: can't have {size_bytes} bytes: {error}") from error
        self.memory = address_of(self.view)
        self.size_bytes = size_bytes
        self.page_mask = mmap.PAGESIZE - 1

    def waiting(self):
        """Nobody waits for memory."""
        return Waiting(may_block=False, reason="the backend is in memory")

    @property
    def outlives_engine(self):
        """Its processes have the memory."""
        return False

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        cdef const uint8_t *source = self.memory + offset_bytes
        cdef int index
        for index in range(range_count):
            memcpy(ranges[index].iov_base, source, ranges[index].iov_len)
            source += ranges[index].iov_len
        return 0

    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil:
        cdef uint8_t *target = self.memory + offset_bytes
        cdef int index
        for index in range(range_count):
            memcpy(target, ranges[index].iov_base, ranges[index].iov_len)
            target += ranges[index].iov_len
        return 0

    cdef int discard_at(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        """Give back the whole pages of the range; what lies beside them stays as it is."""
        cdef uint64_t start_bytes = (offset_bytes + self.page_mask) & ~self.page_mask
        cdef uint64_t end_bytes = (offset_bytes + length_bytes) & ~self.page_mask
        if start_bytes < end_bytes:
            # The kernel may refuse (locked memory, a debugger): discarding is advisory.
            while give_back(self.memory + start_bytes, end_bytes - start_bytes) != 0 and errno == EINTR:
                pass
        return 0

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes,
                             bint may_unmap) noexcept nogil:
        cdef uint64_t start_bytes = (offset_bytes + self.page_mask) & ~self.page_mask
        cdef uint64_t end_bytes = (offset_bytes + length_bytes) & ~self.page_mask
        if not may_unmap or start_bytes >= end_bytes or \
                give_back(self.memory + start_bytes, end_bytes - start_bytes) != 0:
            memset(self.memory + offset_bytes, 0, length_bytes)
            return 0
        memset(self.memory + offset_bytes, 0, start_bytes - offset_bytes)
        memset(self.memory + end_bytes, 0, offset_bytes + length_bytes - end_bytes)
        return 0
