from libc.stdint cimport uint32_t

from ringblk.engine.dispatcher.chain_intake cimport ChainIntake
from ringblk.engine.dispatcher.cpu_placement cimport CpuPlacement
from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.engine.dispatcher.idle_poll cimport IdlePoll
from ringblk.engine.dispatcher.lost_memory cimport LostMemory
from ringblk.engine.dispatcher.queue_table cimport QueueTable
from ringblk.engine.dispatcher.resubmission_list cimport ResubmissionList
from ringblk.engine.dispatcher.ring cimport DispatcherRing
from ringblk.engine.dispatcher.throttle cimport Throttle
from ringblk.shm.state.segment cimport StateSegment


cdef class IdleWait:
    cdef StateSegment state
    cdef Handover handover
    cdef QueueTable table
    cdef Throttle throttle
    cdef DispatcherRing ring
    cdef ChainIntake intake
    cdef ResubmissionList resubmissions
    cdef LostMemory lost_memory
    cdef IdlePoll idle_poll
    cdef CpuPlacement placement

    cdef inline bint may_pop(self) noexcept nogil:
        """Whether there is a slot and no debt; what is new comes after what an earlier engine left."""
        return not self.throttle.is_in_debt() and self.handover.free_count and self.resubmissions.is_empty()
    cdef inline bint _may_pop_queue(self, uint32_t queue_index) noexcept nogil:
        """Whether nothing holds up this queue alone: a chain that waits for a long list, too much that waits for tokens."""
        return self.handover.has_free(queue_index) and not self.intake.is_waiting(queue_index) and not self.throttle.is_full(queue_index, self.table.active_count)
    cdef void wait(self) noexcept nogil
    cdef bint _poll(self) noexcept nogil
    cdef bint _has_work(self) noexcept nogil
    cdef void _sleep(self) noexcept nogil
