from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.layout.slot cimport SLOT_FREE, RequestSlot
from ringblk.shm.state.segment cimport LONG_LIST_LIMIT, WORKER_LIMIT, StateSegment
from ringblk.shm.sync.invariant cimport invariant

cdef inline bint is_begun(RequestSlot *slot) noexcept nogil:
    """Whether somebody was carrying the request out when it was last heard of."""
    return slot.started_ns >= slot.popped_ns and slot.done_ns < slot.started_ns


cdef class Handover:
    cdef StateSegment state
    cdef uint32_t index_mask
    cdef bint has_slots               # the slots have been looked at: they have memory
    cdef uint32_t *free_slots
    cdef readonly uint32_t free_count
    cdef uint32_t first_queue_slots   # of them, left to the first queue
    cdef uint32_t free_lists[LONG_LIST_LIMIT]   # of long chains, counted from 1
    cdef readonly uint32_t free_list_count
    cdef uint32_t *backlog            # slots that wait for a worker to come
    cdef readonly uint32_t backlog_count
    cdef readonly uint32_t up_count   # workers that may be given requests
    cdef bint is_wish_open            # workers were asked for, and there was no answer yet
    cdef bint is_wish_refused         # there are no more now: those that are up have to do
    cdef bint has_wish                # `take_wish` says how many are to be up
    cdef uint32_t *batch              # slots whose outcome is known, to be published together
    cdef uint32_t batch_count
    cdef uint32_t ring_count          # rings that were ever used: one more than the highest index
    cdef bint is_up[WORKER_LIMIT]
    cdef uint32_t load[WORKER_LIMIT]  # slots that the worker holds
    cdef uint32_t submit_tail[WORKER_LIMIT]
    cdef uint32_t collected_tail[WORKER_LIMIT]
    cdef uint64_t touched_workers     # whose submit_tail is not published yet
    cdef uint64_t progress_ns[WORKER_LIMIT]   # when the worker last gave something back, or began to have something
    cdef uint64_t least_cost_ns       # of the worker that `_choose` found
    cdef uint64_t service_ns          # moving average of what a request takes, once it is begun
    cdef int eventfds[WORKER_LIMIT]

    cdef inline bint has_free(self, uint32_t queue_index) noexcept nogil:
        """Whether there is a slot for a chain of this queue."""
        return self.free_count > (self.first_queue_slots if queue_index else 0)
    cdef inline uint32_t peek_free(self) noexcept nogil:
        """The slot that is taken next; there must be one."""
        invariant(self.free_count > 0, "there is a free slot where one is taken")
        return self.free_slots[self.free_count - 1]
    cdef inline void take_free(self) noexcept nogil:
        """Take the slot that `peek_free` has named."""
        invariant(self.state.slots[self.free_slots[self.free_count - 1]].state == SLOT_FREE, "a slot that is taken is FREE")
        self.free_count -= 1
    cdef void note_service(self, uint64_t sample_ns) noexcept nogil
    cdef void give(self, uint32_t slot_index) noexcept nogil
    cdef void wish(self) noexcept nogil
    cdef bint _may_come(self) noexcept nogil
    cdef int _choose(self, uint64_t now_ns, bint is_long) noexcept nogil
    cdef void _hand(self, uint32_t slot_index, uint32_t worker_index) noexcept nogil
    cdef void publish(self) noexcept nogil
    cdef uint32_t collect(self) noexcept nogil
    cdef bint has_done(self) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef void add_free(self, uint32_t slot_index) noexcept nogil
    cdef void give_backlog(self) noexcept nogil
    cdef void end(self, uint32_t slot_index) noexcept nogil
    cdef void end_backlog(self) noexcept nogil
    cdef bint _is_held(self, uint32_t slot_index, uint32_t worker_index) noexcept nogil
    cdef bint _is_given(self, uint32_t slot_index) noexcept nogil
