# The asynchronous form of a backend: requests are begun, and named once they are done.

from libc.stdint cimport uint64_t
from posix.uio cimport iovec

cdef enum StorageOperation:
    STORAGE_READ
    STORAGE_WRITE
    STORAGE_FLUSH
    STORAGE_DISCARD
    STORAGE_WRITE_ZEROES


cdef struct StorageRequest:
    uint64_t tag              # the caller's; comes back with the outcome
    StorageOperation operation
    int range_count
    const iovec *ranges       # of a read or write
    uint64_t offset_bytes
    uint64_t length_bytes
    bint is_durable           # a write: on stable storage before it is done
    bint may_unmap            # zeroes: the space may be given back


cdef struct StorageOutcome:
    uint64_t tag
    int result                # 0: all of it is done; or a negative errno


cdef class AsyncForm:
    cdef readonly int ready_fd
    cdef int begin(self, const StorageRequest *request) noexcept nogil
    cdef bint submit(self) noexcept nogil
    cdef bint has_outcomes(self) noexcept nogil
    cdef bint reap(self, StorageOutcome *outcome) noexcept nogil
