from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.state.segment cimport StateSegment, WorkerState
from ringblk.workers.requests.request cimport RequestExecutor

cdef class Pump:
    cdef StateSegment state
    cdef WorkerState *worker
    cdef uint32_t *submit_entries
    cdef uint32_t *done_entries
    cdef uint32_t index_mask
    cdef GuestMemory memory
    cdef RequestExecutor executor
    cdef int own_eventfd
    cdef int dispatcher_eventfd
    cdef int channel_fd
    cdef uint32_t pending_count    # requests that wait for somebody else

    cdef bint _run(self) noexcept nogil
    cdef bint _serve(self, uint32_t *head) noexcept nogil
    cdef bint has_memory_for(self, uint32_t slot_index) noexcept nogil
    cdef uint32_t _reap(self) noexcept nogil
    cdef void _push_done(self, uint32_t slot_index) noexcept nogil
    cdef void note_left_alone(self) noexcept nogil
    cdef void _sleep(self, uint32_t head) noexcept nogil
