from libc.stdint cimport int32_t, uint32_t, uint64_t, uint8_t

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.request cimport FolderRequest, WindowChunk
from ringblk.workers.fs.share cimport Share

cdef enum:
    EXPECTED_LIMIT = 4096      # answers that are waited for at once
    REPLY_BYTES = 20


cdef struct ExpectedAnswer:
    uint32_t slot_index
    uint32_t chunk_index
    uint32_t is_map
    uint32_t counts            # whether a refusal is the request's


cdef struct MappingProgress:
    uint32_t left              # answers that a request waits for
    int error


cdef class Window:
    cdef Share share
    cdef WindowChunk *chunks
    cdef uint64_t size_bytes
    cdef int channel_fd
    cdef object ready
    cdef readonly int ready_fd
    cdef uint32_t stale_count  # answers to what a dispatcher has asked that has died
    cdef uint32_t head
    cdef uint32_t tail
    cdef ExpectedAnswer *expected
    cdef MappingProgress *progress
    cdef uint32_t *done
    cdef uint32_t done_count
    cdef uint32_t reply_bytes
    cdef uint8_t reply[REPLY_BYTES]

    cdef int set_up(self, uint32_t slot_index) noexcept nogil
    cdef int remove(self, uint32_t slot_index) noexcept nogil
    cdef int reap(self) noexcept nogil
    cdef bint is_pending(self, uint32_t slot_index) noexcept nogil
    cdef int _ask(self, uint32_t slot_index, uint32_t chunk_index, int fd, uint64_t length_bytes, bint is_map,
                  bint counts) noexcept nogil
    cdef void _take_answers(self) noexcept nogil
    cdef void _take_answer(self, uint64_t value) noexcept nogil
    cdef void _give_up(self) noexcept nogil
    cdef void _hang_up(self) noexcept
    cdef void _settle(self, uint32_t slot_index) noexcept nogil
