from libc.stdint cimport uint32_t, uint8_t

from ringblk.shm.platform.uring_calls cimport io_uring_cqe, io_uring_params, io_uring_sqe


cdef class Uring:
    cdef int fd
    cdef readonly uint32_t entry_count
    cdef readonly bytes layout    # what the kernel said of the rings: for `attach`
    cdef uint8_t *rings
    cdef size_t rings_bytes
    cdef io_uring_sqe *entries
    cdef uint32_t *sq_head
    cdef uint32_t *sq_tail
    cdef uint32_t *sq_flags
    cdef uint32_t *cq_head
    cdef uint32_t *cq_tail
    cdef uint32_t sq_mask
    cdef uint32_t cq_mask
    cdef io_uring_cqe *completions
    cdef uint32_t local_tail      # entries filled, not all submitted yet

    cdef int map_rings(self, const io_uring_params *described) except -1
    cdef io_uring_sqe *next_entry(self) noexcept nogil
    cdef bint take_completion(self, io_uring_cqe *completion) noexcept nogil
    cdef bint has_completions(self) noexcept nogil
    cdef int enter(self, uint32_t min_complete) noexcept nogil


cdef int make_ring(uint32_t entry_count, io_uring_params *params) noexcept nogil
