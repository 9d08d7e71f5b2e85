from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.shm.state.segment cimport StateSegment
from ringblk.shm.queues.virtqueue cimport Virtqueue

cdef class ChainIntake:
    cdef StateSegment state
    cdef Handover handover
    cdef uint64_t waiting_queues     # queues whose next chain waits for a long list

    cdef inline void begin_round(self) noexcept nogil:
        """Let those that wait try again, once there is a list for one of them."""
        if self.handover.free_list_count:
            self.waiting_queues = 0
    cdef inline bint is_waiting(self, uint32_t queue_index) noexcept nogil:
        """Whether the queue's next chain needs a long list, and all are in use."""
        return self.handover.free_list_count == 0 and (self.waiting_queues >> queue_index) & 1
    cdef int read(self, Virtqueue virtqueue, uint16_t head_index, uint32_t slot_index) noexcept nogil
