from libc.stdint cimport uint32_t, uint64_t

from ringblk.engine.chain_intake cimport ChainIntake
from ringblk.engine.cpu_placement cimport CpuPlacement
from ringblk.engine.dispatcher_ring cimport DispatcherRing
from ringblk.engine.handover cimport Handover
from ringblk.engine.idle_poll cimport IdlePoll
from ringblk.engine.inline_gate cimport InlineGate
from ringblk.engine.lost_memory cimport LostMemory
from ringblk.engine.overlap_list cimport OverlapList
from ringblk.engine.queue_table cimport QueueTable, ServedQueue
from ringblk.engine.request_recorder cimport RequestRecorder
from ringblk.engine.resubmission_list cimport Resubmission, ResubmissionList
from ringblk.engine.throttle cimport Throttle
from ringblk.shm.memory cimport GuestMemory
from ringblk.shm.state cimport StateSegment
from ringblk.workers.request cimport RequestExecutor, RequestParser

cdef class DispatchLoop:
    cdef StateSegment state
    cdef GuestMemory memory
    cdef RequestParser parser
    cdef RequestExecutor executor
    cdef readonly Handover handover
    cdef readonly OverlapList overlaps
    cdef InlineGate gate
    cdef DispatcherRing ring
    cdef IdlePoll idle_poll
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
    cdef uint32_t next_place               # of QueueTable.active: whose turn it is to be popped from

    cdef void _let_go(self, uint32_t queue_index) noexcept nogil
    cdef int _run(self) noexcept nogil
    cdef void collect(self) noexcept nogil
    cdef uint32_t _release_throttled(self) noexcept nogil
    cdef uint32_t _release_held(self) noexcept nogil
    cdef uint32_t _resubmit_all(self) noexcept nogil
    cdef uint32_t _pop_all(self) noexcept nogil
    cdef bint _may_pop(self) noexcept nogil
    cdef bint _may_pop_queue(self, uint32_t queue_index) noexcept nogil
    cdef uint32_t _pop_queue(self, uint32_t queue_index, uint64_t now_ns) noexcept nogil
    cdef int _take_in(self, ServedQueue *queue, uint32_t queue_index, uint32_t head, uint64_t counter,
                       uint64_t now_ns, bint is_new) noexcept nogil
    cdef bint _resubmit(self, Resubmission *old, uint64_t now_ns) noexcept nogil
    cdef void submit(self, uint32_t slot_index) noexcept nogil
    cdef void _begin(self, uint32_t slot_index) noexcept nogil
    cdef void complete(self) noexcept nogil
    cdef bint _poll(self) noexcept nogil
    cdef bint _has_work(self) noexcept nogil
    cdef void _sleep(self) noexcept nogil
