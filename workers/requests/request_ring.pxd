from libc.stdint cimport uint32_t
from posix.uio cimport iovec

from ringblk.workers.requests.request cimport RequestExecutor
from ringblk.workers.uring.ring cimport Uring, io_uring_cqe


cdef class RequestRing:
    cdef readonly Uring uring
    cdef RequestExecutor executor
    cdef iovec *vectors           # VECTOR_LIMIT for each place
    cdef uint32_t *free_places
    cdef readonly uint32_t free_count
    cdef uint32_t depth

    cdef bint begin(self, uint32_t slot_index) noexcept nogil
    cdef int end(self, const io_uring_cqe *completion) noexcept nogil
