from libc.stdint cimport uint32_t, uint64_t
from posix.uio cimport iovec

from ringblk.workers.backends.asynchronous cimport AsyncForm, StorageOutcome, StorageRequest
from ringblk.workers.rbd.client cimport RbdImage

cdef enum:
    TAKEN_AT_ONCE = 64

cdef struct RbdRequest:
    uint64_t tag
    uint64_t length_bytes     # of a read; 0 of all else
    RbdRequest *next          # of those that are free
    int range_capacity
    iovec *ranges             # librbd reads the list until the request is done


cdef class RbdForm(AsyncForm):
    cdef RbdImage image
    cdef RbdRequest *free_requests
    cdef void *taken[TAKEN_AT_ONCE]   # completions
    cdef int taken_count, taken_place
    cdef uint64_t under_way

    cdef int _start(self, const StorageRequest *request, RbdRequest *own, void *completion) noexcept nogil
    cdef RbdRequest *_new_request(self, int range_count) noexcept nogil
    cdef void _free_request(self, RbdRequest *own) noexcept nogil
