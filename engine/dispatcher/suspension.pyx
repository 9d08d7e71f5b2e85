# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Queues that stop with requests in flight, for another back end to do (vhost-user, GET_VRING_BASE_SKIP_DRAIN).

The in-flight record goes on saying which heads those are. What somebody has under way here is *let go*: it ends, and
nobody is told. Nothing of it may land once another back end has begun to do it again, so the drive's image is given
up only when all of it has ended (`let_go_count`).
"""

from libc.stdint cimport uint32_t

from ringblk.engine.dispatcher.dispatch_loop cimport DispatchLoop
from ringblk.engine.dispatcher.unpop cimport unpop_waiting
from ringblk.shm.layout.slot cimport SLOT_FREE, RequestSlot
from ringblk.shm.sync.atomic cimport store_relaxed_32
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.requests.request cimport SLOT_LET_GO


cdef class Suspension:
    """What of one dispatcher's requests was let go."""

    cdef DispatchLoop loop
    cdef readonly list waiting   # ids of requests that are answered when nothing that was let go is under way

    def __cinit__(self, DispatchLoop loop):
        self.loop = loop
        self.waiting = []

    def suspend(self, uint32_t queue_index):
        """Pop no more from a queue, and let go of all that is in flight. Nobody waits for what had not begun.

        Returns how many requests stay in flight.
        """
        cdef uint32_t index
        cdef int slot_index
        cdef RequestSlot *slot
        self.loop.table.set_enabled(queue_index, False)
        self.loop.resubmissions.drop(queue_index)
        unpop_waiting(self.loop.state, self.loop.table, self.loop.handover, self.loop.throttle, queue_index)
        self.loop.collect()   # what is done already its driver hears of
        slot_index = self.loop.throttle.drop_first(queue_index)
        while slot_index >= 0:
            store_relaxed_32(&self.loop.state.slots[slot_index].state, SLOT_FREE)
            crash_point("suspend: waiting slot freed")
            self.loop.handover.add_free(<uint32_t>slot_index)
            slot_index = self.loop.throttle.drop_first(queue_index)
        for index in range(self.loop.state.open_slot_count()):
            slot = &self.loop.state.slots[index]
            if slot.state != SLOT_FREE and slot.queue_index == queue_index:
                slot.flags |= SLOT_LET_GO
                crash_point("suspend: slot let go")
        self.loop.handover.end_backlog()
        self.loop.complete()
        return self.loop.table.inflight_count(queue_index)

    def let_go_count(self):
        """How many requests that were let go have not ended."""
        cdef uint32_t index, count = 0
        cdef RequestSlot *slot
        for index in range(self.loop.state.open_slot_count()):
            slot = &self.loop.state.slots[index]
            count += slot.state != SLOT_FREE and slot.flags & SLOT_LET_GO != 0
        return count

    def take_answerable(self):
        """The waiting requests that can be answered now; they wait no more."""
        if not self.waiting or self.let_go_count():
            return []
        answered, self.waiting = self.waiting, []
        return answered
