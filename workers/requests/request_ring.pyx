# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests that are under way through an io_uring: a place for each, with its vectors."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.uio cimport iovec

from ringblk.workers.requests.request cimport RequestExecutor
from ringblk.workers.uring.ring cimport Uring, io_uring_cqe, io_uring_sqe

cdef enum:
    VECTOR_LIMIT = 128    # ranges of a request that goes through the ring


cdef class RequestRing:
    """As many places as `uring` has entries but one, which is left for its user."""

    def __init__(self, Uring uring, RequestExecutor executor):
        cdef uint32_t place
        self.uring = uring
        self.executor = executor
        self.depth = uring.entry_count - 1
        self.vectors = <iovec *>calloc(self.depth * VECTOR_LIMIT, sizeof(iovec))
        self.free_places = <uint32_t *>calloc(self.depth, sizeof(uint32_t))
        if self.vectors == NULL or self.free_places == NULL:
            raise MemoryError
        for place in range(self.depth):
            self.free_places[place] = self.depth - 1 - place
        self.free_count = self.depth

    def __dealloc__(self):
        free(self.vectors)
        free(self.free_places)

    cdef bint begin(self, uint32_t slot_index) noexcept nogil:
        """Fill an entry, to be submitted with `uring.enter`. False: it cannot go through the ring."""
        cdef uint32_t place
        cdef io_uring_sqe *entry
        if self.free_count == 0:
            return False
        place = self.free_places[self.free_count - 1]
        entry = self.uring.next_entry()   # there is one: places are fewer than entries
        if not self.executor.begin(slot_index, entry, self.vectors + place * VECTOR_LIMIT, VECTOR_LIMIT):
            self.uring.local_tail -= 1
            return False
        entry.user_data = (<uint64_t>place << 32) | slot_index
        self.free_count -= 1
        return True

    cdef int end(self, const io_uring_cqe *completion) noexcept nogil:
        """Take the outcome in and free the place. -1: it failed or fell short, and is to be executed anew."""
        self.free_places[self.free_count] = <uint32_t>(completion.user_data >> 32)
        self.free_count += 1
        return 0 if self.executor.end(<uint32_t>completion.user_data, completion.res) else -1
