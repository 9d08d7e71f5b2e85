# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A base that is fetched as it is read: the data file of a layer which another process, the fetcher, fills.

The map says which blocks are in the file. It is only looked at here; the fetcher sets a bit once the block's bytes are
written. For all others the fetcher is asked, which may take as long as the source likes: so whoever must not wait asks
`uring_fd` first, and leaves what is missing to a worker.
"""

from libc.stdint cimport uint64_t
from posix.uio cimport iovec

from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.workers.backends.asynchronous cimport STORAGE_READ, StorageRequest
from ringblk.workers.backends.file cimport FileBackend
from ringblk.workers.fetch.line cimport FetchLine
from ringblk.workers.layers.map cimport BLOCK_BYTES, BLOCK_PRESENT, BLOCK_SHIFT, LayerMap

import mmap
import os

from ringblk.workers.backends.answers import Waiting
from ringblk.workers.fetch.source_form import SOCKET

cdef extern from * nogil:
    """
    static inline void ringblk_count_one(unsigned long long *place) { __atomic_fetch_add(place, 1, __ATOMIC_RELAXED); }
    """
    void count_one "ringblk_count_one"(unsigned long long *place)

COUNTS_BYTES = 4096
FETCH_CALLS = "socket connect"
"""What a line to the fetcher takes."""
_PATIENCE_NS = 30_000_000_000
"""Of a process that others wait for: it is not the one that serves a guest."""


cdef class FetchedBase(FileBackend):
    """Read only. Who serves a guest waits for ever (`wait_for_ever`), all others half a minute for an answer."""

    @staticmethod
    def of(file, int fd, fetched, int map_fd, int counts_fd):
        """What another process has found, with the descriptors of data, map and counts: the caller keeps those."""
        cdef FetchedBase base = FetchedBase.__new__(FetchedBase)
        base.be_file(file, fd)
        base.fetched = LayerMap(map_fd, file.size_bytes, is_read_only=True)
        base._counts = memoryview(mmap.mmap(counts_fd, COUNTS_BYTES))
        base.counts = <uint64_t *>address_of(base._counts)
        base.line = FetchLine(os.path.join(fetched.folder, SOCKET), fetched.layer_id, _PATIENCE_NS)
        return base

    def wait_for_ever(self):
        """A guest waits here as long as its source takes."""
        self.line.patience_ns = <uint64_t>-1

    @property
    def read_count(self):
        """Reads of the drive that were of the base, all or in part."""
        return self.counts[0]

    @property
    def miss_count(self):
        """Those of them for which the fetcher was asked."""
        return self.counts[1]

    def waiting(self):
        """A block that is there costs no more than a file's; one that is missing is left to a worker."""
        return Waiting(begins_at_once=True, reason="the base is fetched as it is read")

    cdef bint _has(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        return self.fetched.is_all(offset_bytes >> BLOCK_SHIFT,
                                   (offset_bytes + length_bytes + BLOCK_BYTES - 1) >> BLOCK_SHIFT, BLOCK_PRESENT)

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        """From the file, once all of it is there; else the bytes as the fetcher has them, which has no room for them."""
        cdef int result
        if length_bytes == 0:
            return 0
        count_one(<unsigned long long *>self.counts)
        if not self._has(offset_bytes, length_bytes):
            count_one(<unsigned long long *>self.counts + 1)
            result = self.line.fetch(offset_bytes, length_bytes)
            if result < 0:
                return result
            if not self._has(offset_bytes, length_bytes):
                return self.line.read(ranges, range_count, offset_bytes, length_bytes)
        return FileBackend.readv_at(self, ranges, range_count, offset_bytes, length_bytes)

    cdef int uring_fd(self, const StorageRequest *request) noexcept nogil:
        cdef int fd
        if request.operation != STORAGE_READ or not self._has(request.offset_bytes, request.length_bytes):
            return -1
        fd = FileBackend.uring_fd(self, request)
        if fd >= 0:
            count_one(<unsigned long long *>self.counts)   # else it comes by `readv_at`
        return fd
