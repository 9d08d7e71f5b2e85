# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the dispatcher has under way itself: through an io_uring, and what its executor has left pending.

A disk's requests take the kernel and the disk their time, not the process that asks for them. So as long as
the dispatcher has time to spare it asks by itself: a request then costs no wake-up of a worker, and none of
the dispatcher by a worker. When it is busy all the time, workers take what is more.

The supervisor holds the ring as well, and starts another dispatcher only when nothing of a dead one's can
land any more (`Uring.is_idle`); the requests are then in their slots, HANDED to DISPATCHER_PENDING, and are
done again. So is what was pending.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.shm.sync.atomic cimport store_release_32
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.sync.invariant cimport invariant
from ringblk.shm.layout.slot cimport DISPATCHER_PENDING, SLOT_HANDED, SLOT_PREPARED, RequestSlot
from ringblk.shm.state.segment cimport StateSegment
from ringblk.workers.backends.asynchronous cimport AsyncForm, StorageOutcome
from ringblk.workers.requests.request cimport SLOT_LET_GO, RequestExecutor

cdef enum:
    BUSY_NS = 1000000     # without a moment of nothing to do in this time, the dispatcher is the bottleneck


cdef class DispatcherRing:
    """Requests begun on `form` (the backend's through io_uring), if there is one, and those that `executor` has left pending."""

    def __init__(self, StateSegment state, RequestExecutor executor, AsyncForm form):
        self.state = state
        self.executor = executor
        self.form = form
        self.idle_ns = monotonic_ns()

    cdef bint begin(self, uint32_t slot_index, bint is_alone) noexcept nogil:
        """Begin a prepared request, to be submitted with `submit`. False: somebody else has to do it.

        `is_alone`: there is nobody else, so it does not matter whether the dispatcher has time.
        """
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef uint64_t started_ns = slot.popped_ns + slot.throttled_ns
        if self.form is None or (started_ns > self.idle_ns + BUSY_NS and not is_alone) \
                or not self.executor.begin(slot_index, self.form):
            return False
        invariant(slot.state == SLOT_PREPARED, "a slot that the dispatcher begins is PREPARED")
        slot.worker_index = DISPATCHER_PENDING
        slot.started_ns = started_ns
        # Release: the owner before the state; recovery reads it after.
        store_release_32(&slot.state, SLOT_HANDED)
        crash_point("dispatcher ring: entry filled")
        self.has_filled = True
        return True

    cdef void keep_pending(self, RequestSlot *slot) noexcept nogil:
        """A request that was carried out here waits for somebody else."""
        slot.worker_index = DISPATCHER_PENDING   # a death from now on is not of its doing
        crash_point("pending: left by the dispatcher")
        self.pending_count += 1
        self.has_unsubmitted = True

    cdef void submit(self) noexcept nogil:
        """Let the kernel take what was begun, and what is pending go its way."""
        if self.has_unsubmitted:
            self.has_unsubmitted = False
            self.executor.submit()
        if self.has_filled:
            self.has_filled = self.form.submit()   # what the kernel had no memory for goes in the next round
            crash_point("dispatcher ring: entries submitted")

    cdef bint has_done(self) noexcept nogil:
        """Whether something has completed."""
        if self.pending_count and self.executor.has_outcomes():
            return True
        return self.form is not None and self.form.has_outcomes()

    cdef void reap(self, Handover handover) noexcept nogil:
        """Put what has completed into the batch, and have done elsewhere what failed here.

        A form is asked even where nothing is pending: it may have connections to see to.
        """
        if self.executor.outcome_fd >= 0:
            self._reap_pending(handover)
        if self.form is not None and self.form.has_outcomes():
            self._reap_form(handover)

    cdef void _reap_pending(self, Handover handover) noexcept nogil:
        cdef int slot_index = self.executor.reap()
        while slot_index >= 0:
            crash_point("pending: reaped by the dispatcher")
            self.pending_count -= 1
            if not self.state.slots[slot_index].flags & SLOT_LET_GO:   # else its status byte is not ours any more
                self.executor.finish(<uint32_t>slot_index)
            self.state.slots[slot_index].done_ns = monotonic_ns()
            handover.batch[handover.batch_count] = <uint32_t>slot_index
            handover.batch_count += 1
            slot_index = self.executor.reap()

    cdef void _reap_form(self, Handover handover) noexcept nogil:
        cdef StorageOutcome outcome
        cdef uint32_t slot_index, is_let_go
        cdef uint64_t now_ns = monotonic_ns()
        while self.form.reap(&outcome):
            crash_point("dispatcher ring: completion taken")
            slot_index = <uint32_t>outcome.tag
            is_let_go = self.state.slots[slot_index].flags & SLOT_LET_GO
            if not self.executor.end(slot_index, outcome.result) and not is_let_go:
                self._give_away(slot_index, handover)
                continue
            if not is_let_go:
                self.executor.finish(slot_index)
            self.state.slots[slot_index].done_ns = now_ns
            handover.batch[handover.batch_count] = slot_index
            handover.batch_count += 1

    cdef void _give_away(self, uint32_t slot_index, Handover handover) noexcept nogil:
        """A failing disk may take long to fail again, which the dispatcher must not wait for."""
        self.state.slots[slot_index].started_ns = 0   # nobody is at it
        # Release: of a HANDED slot owner and ring position count as they stand, so it is none while they change.
        store_release_32(&self.state.slots[slot_index].state, SLOT_PREPARED)
        crash_point("dispatcher ring: given away")
        handover.give(slot_index)
