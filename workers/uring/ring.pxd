from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t, uint8_t

cdef extern from "linux/io_uring.h" nogil:
    struct io_uring_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        int rw_flags
        uint32_t fsync_flags
        uint64_t user_data
    struct io_uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags
    enum:
        IORING_OP_READV
        IORING_OP_WRITEV
        IORING_OP_FSYNC
        IORING_OP_READ
        IORING_OP_WRITE
        IORING_OP_POLL_ADD
        IORING_FSYNC_DATASYNC
    struct io_sqring_offsets:
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array
    struct io_cqring_offsets:
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes
    struct io_uring_params:
        uint32_t sq_entries, cq_entries, flags, features
        io_sqring_offsets sq_off
        io_cqring_offsets cq_off


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
