# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A drive in memory that all workers share and that is gone when the engine ends."""

import mmap
import os

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from ringblk.shm.platform.memory_calls cimport give_back
from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.workers.backends.native cimport NativeBackend

from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.workers.backends.answers import Waiting
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.open_storage import OpenMemory
from ringblk.workers.backends.topology import drive_size_fault


cdef class MemoryBackend(NativeBackend):
    """`size_bytes` of zeroes, which every process shares that they are handed to.

    Memory is taken as it is written and given back when it is discarded. Raises BackendError.
    """

    cdef int memory_fd
    cdef object view              # keeps the mapping
    cdef uint8_t *memory
    cdef uint64_t page_mask

    def __init__(self, size_bytes):
        if fault := drive_size_fault(size_bytes):
            raise BackendError(f"memory backend: {fault}")
        try:
            self.memory_fd = make_unnamed("ringblk-drive", size_bytes)
            self.map_memory(size_bytes)
        except (OSError, OverflowError) as error:
            self.close()
            raise BackendError(f"memory backend: can't have {size_bytes} bytes: {error}") from error

    def __cinit__(self, *_args, **_options):
        self.memory_fd = -1

    @staticmethod
    def take(found, int fd):
        """The same of what another process has handed over: `fd` is this backend's from now on."""
        cdef MemoryBackend backend = MemoryBackend.__new__(MemoryBackend)
        backend.memory_fd = fd
        backend.map_memory(found.size_bytes)
        return backend

    def map_memory(self, size_bytes):
        """Map what the descriptor stands for. Raises `OSError`."""
        self.view = memoryview(mmap.mmap(self.memory_fd, size_bytes))
        self.memory = address_of(self.view)
        self.size_bytes = size_bytes
        self.page_mask = mmap.PAGESIZE - 1

    def hand_over(self):
        """The memory's descriptor. One of a class that is made from it is inherited only."""
        if type(self) is not MemoryBackend:
            return NativeBackend.hand_over(self)
        return OpenMemory(size_bytes=self.size_bytes), (self.memory_fd,)

    def close(self):
        """Close the descriptor; the mapping stays until the object goes."""
        cdef int fd = self.memory_fd
        self.memory_fd = -1
        if fd >= 0:
            os.close(fd)

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
