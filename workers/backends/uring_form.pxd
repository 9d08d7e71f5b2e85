from libc.stdint cimport uint32_t, uint64_t
from posix.uio cimport iovec

from ringblk.workers.backends.asynchronous cimport AsyncForm
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.uring.ring cimport Uring


cdef struct Place:
    # What one request needs until it is done.
    uint64_t tag
    uint64_t length_bytes     # what its completion has to say
    uint64_t offset_bytes
    bint is_write


cdef class UringForm(AsyncForm):
    cdef readonly Uring uring
    cdef NativeBackend backend
    cdef iovec *vectors       # VECTOR_LIMIT for each place
    cdef Place *places
    cdef uint32_t *free_places
    cdef readonly uint32_t free_count
    cdef uint32_t depth
    cdef uint64_t woken_count     # what the eventfd said; the kernel writes here
    cdef bint is_watching         # a read of the eventfd is under way
    cdef int channel_fd           # whose other end is watched; -1: none
    cdef bint is_watching_end
    cdef bint has_hung_up         # it is closed

    cdef void wait(self, int eventfd, bint has_work) noexcept nogil
    cdef void _watch_end(self) noexcept nogil
    cdef void _watch(self, int eventfd) noexcept nogil
