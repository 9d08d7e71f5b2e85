from libc.stdint cimport uint32_t, uint64_t

from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.state.segment cimport StateSegment
from ringblk.workers.backends.asynchronous cimport AsyncForm
from ringblk.workers.requests.request cimport RequestExecutor


cdef class DispatcherRing:
    cdef StateSegment state
    cdef RequestExecutor executor
    cdef AsyncForm form               # None: there is none, and nothing is begun here
    cdef uint64_t idle_ns             # when there was last nothing to do
    cdef bint has_filled              # entries wait to be submitted
    cdef uint32_t pending_count       # requests that the executor has left pending
    cdef bint has_unsubmitted         # some of them since it was last told to submit

    cdef bint begin(self, uint32_t slot_index, bint is_alone) noexcept nogil
    cdef void keep_pending(self, RequestSlot *slot) noexcept nogil
    cdef void submit(self) noexcept nogil
    cdef bint has_done(self) noexcept nogil
    cdef void reap(self, Handover handover) noexcept nogil
    cdef void _reap_pending(self, Handover handover) noexcept nogil
    cdef void _reap_form(self, Handover handover) noexcept nogil
    cdef void _give_away(self, uint32_t slot_index, Handover handover) noexcept nogil
