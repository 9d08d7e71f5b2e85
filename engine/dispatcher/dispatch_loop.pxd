from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ringblk.engine.dispatcher.chain_intake cimport ChainIntake
from ringblk.engine.dispatcher.cpu_placement cimport CpuPlacement
from ringblk.engine.dispatcher.ring cimport DispatcherRing
from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.engine.dispatcher.idle_wait cimport IdleWait
from ringblk.engine.dispatcher.inline_gate cimport InlineGate
from ringblk.engine.dispatcher.lost_memory cimport LostMemory
from ringblk.engine.dispatcher.overlap_list cimport OverlapList
from ringblk.engine.dispatcher.queue_table cimport QueueTable
from ringblk.engine.dispatcher.request_recorder cimport RequestRecorder
from ringblk.engine.dispatcher.resubmission_list cimport Resubmission, ResubmissionList
from ringblk.engine.dispatcher.throttle cimport Throttle
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.queues.virtqueue cimport Virtqueue
from ringblk.shm.state.segment cimport StateSegment
from ringblk.workers.requests.request cimport RequestExecutor, RequestParser

cdef class DispatchLoop:
    cdef StateSegment state
    cdef GuestMemory memory
    cdef RequestParser parser
    cdef RequestExecutor executor
    cdef readonly Handover handover
    cdef readonly OverlapList overlaps
    cdef InlineGate gate
    cdef DispatcherRing ring
    cdef IdleWait idle
    cdef CpuPlacement placement
    cdef public bint reports_progress
    cdef readonly QueueTable table
    cdef Throttle throttle
    cdef RequestRecorder recorder
    cdef uint32_t newly_broken
    cdef ChainIntake intake
    cdef readonly LostMemory lost_memory
    cdef readonly ResubmissionList resubmissions
    cdef uint64_t next_counter
    cdef uint32_t completed_count          # requests published since the round began
    cdef uint32_t inline_batch             # how many requests are carried out here before the driver hears of them
    cdef uint32_t next_place               # of QueueTable.active: whose turn it is to be popped from

    cdef void _let_go(self, uint32_t queue_index) noexcept nogil
    cdef int _run(self) noexcept nogil
    cdef void collect(self) noexcept nogil
    cdef uint32_t _release_throttled(self) noexcept nogil
    cdef uint32_t _release_held(self) noexcept nogil
    cdef uint32_t _resubmit_all(self) noexcept nogil
    cdef uint32_t _pop_all(self) noexcept nogil
    cdef uint32_t _pop_queue(self, Virtqueue virtqueue, uint64_t *now_ns) noexcept nogil
    cdef int _take_in(self, Virtqueue virtqueue, uint16_t head_index, uint64_t counter, uint64_t now_ns,
                      bint is_new) noexcept nogil
    cdef bint _resubmit(self, Resubmission *old, uint64_t now_ns) noexcept nogil
    cdef void submit(self, uint32_t slot_index) noexcept nogil
    cdef void _begin(self, uint32_t slot_index) noexcept nogil
    cdef void complete(self) noexcept nogil
