from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ringblk.shm.queues.driver_virtqueue cimport DriverVirtqueue, Piece
from ringblk.shm.layout.split_ring cimport Descriptor


cdef packed struct RequestArea:
    # What a request has in guest memory besides its data, one per head index.
    uint32_t request_type           # the header (virtio 1.2, 5.2.6)
    uint32_t reserved
    uint64_t sector
    uint64_t range_sector           # of DISCARD and WRITE_ZEROES: one range
    uint32_t range_num_sectors
    uint32_t range_flags
    uint8_t status
    uint8_t padding[31]
    Descriptor table[4]             # the indirect table


cdef struct NativeCompletion:
    uint64_t token
    uint64_t latency_ns
    uint32_t used_length_bytes
    uint32_t status
    uint32_t head_index


cdef class FrontendQueue:
    cdef readonly DriverVirtqueue virtqueue
    cdef readonly bint indirect
    cdef readonly bint polling
    cdef public int kick_fd, call_fd, socket_fd
    cdef public uint64_t capacity_bytes     # of the disk, as far as the front end knows
    cdef RequestArea *areas
    cdef uint64_t areas_gpa
    cdef uint64_t *tokens           # by head index
    cdef uint64_t *started_ns       # by head index
    cdef uint64_t next_token
    cdef list _buffers              # by head index
    cdef list _stashed              # completions taken while another one was waited for

    cdef int start_request(self, uint32_t request_type, uint64_t sector, uint64_t gpa, uint32_t length_bytes,
                           bint device_writes) noexcept nogil
    cdef int start_range_request(self, uint32_t request_type, uint64_t sector, uint32_t num_sectors,
                                 uint32_t flags) noexcept nogil
    cdef void publish_and_kick(self) noexcept nogil
    cdef void signal_kick(self) noexcept nogil
    cdef int take_completion(self, NativeCompletion *completion) noexcept nogil
    cdef int wait_used(self, uint64_t deadline_ns, uint32_t count) noexcept nogil
    cdef uint64_t _area_gpa(self, uint32_t head_index) noexcept nogil
    cdef bint _is_gone(self) noexcept nogil
    cdef int _add(self, uint64_t gpa, uint64_t length_bytes, bint device_writes) noexcept nogil
    cdef int _spin(self, uint64_t deadline_ns) noexcept nogil
    cdef int _sleep(self, uint64_t deadline_ns, uint32_t count) noexcept nogil
    cdef int _take_ready(self, list completions, size_t max_count) except -1
    cdef int _wait(self, uint64_t deadline_ns, size_t count, bint has_some) except -1
    cdef int _check_span(self, offset_bytes, size_bytes) except -1
    cdef object _started(self, int head_index, object buffer)
