# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Going on after a death: a new dispatcher takes over from shared memory, a dead worker's requests go to others.

Both may be killed in the middle of it as well, so every step leaves a state from which the next dispatcher
can begin again: what is done twice here does no harm.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.engine.dispatcher.dispatch_loop cimport DispatchLoop
from ringblk.engine.dispatcher.handover cimport is_begun
from ringblk.engine.dispatcher.throttle cimport NO_POSITION
from ringblk.shm.sync.atomic cimport store_release_32
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.sync.invariant cimport invariant
from ringblk.shm.queues.virtqueue cimport Virtqueue
from ringblk.shm.layout.slot cimport DISPATCHER_PENDING, SLOT_FREE, SLOT_HANDED, SLOT_PREPARED, RequestSlot
from ringblk.shm.state.segment cimport QUEUE_LIMIT
from ringblk.workers.requests.request cimport OPERATION_COMPLETE, SLOT_ADMITTED, SLOT_LET_GO

cdef enum:
    DEATH_LIMIT = 3        # processes that one request may kill
    # A worker killed by a signal from outside this soon after it took a request may have sent it itself.
    QUICK_DEATH_NS = 40000000


cdef inline bint is_carried_out(RequestSlot *slot) noexcept nogil:
    """Whether the dispatcher itself was at it. What it had begun and was waiting for is somebody else's to do."""
    return slot.state == SLOT_HANDED and slot.worker_index != DISPATCHER_PENDING and is_begun(slot)


cdef class Recovery:
    """The deaths that one dispatcher has to deal with."""

    cdef DispatchLoop loop
    cdef uint64_t quickly_killed   # counter of the request that the last quick kill came with
    cdef uint32_t quick_kills      # how many in a row

    def __cinit__(self, DispatchLoop loop):
        self.loop = loop

    def take_over(self, bint own_fault):
        """Go on from what a dead dispatcher left, once every queue and every worker that is up was added.

        `own_fault`: it died of what it did, so what it carried out inline is counted as a killer. Returns the
        slots given up for that.
        """
        found = {}
        cdef RequestSlot *slot
        cdef Virtqueue virtqueue
        live = []
        under_way = self.loop.handover.under_way()
        for index in range(self.loop.state.open_slot_count()):
            slot = &self.loop.state.slots[<uint32_t>index]
            virtqueue = self.loop.table.owners[slot.queue_index]
            if slot.flags & SLOT_LET_GO and index in under_way and virtqueue is None:
                live.append(index)
                continue
            # Whatever the front end has written to the record, what is under way is in flight: its slot is in use.
            if virtqueue is not None and (index in under_way or slot.state in (SLOT_PREPARED, SLOT_HANDED)
                                          and virtqueue.is_inflight_as(slot.head_index, slot.counter)):
                virtqueue.adopt(slot.head_index, slot.counter)
                slot.flags &= ~<uint32_t>SLOT_LET_GO   # a stop that was not answered is asked for again
                found[slot.queue_index, slot.head_index] = index
                live.append(index)
        self.loop.handover.free_all_but(live)
        again, given_up = self._take_back(live, own_fault)
        # Done entries that name a slot which is free now: over before that slot is used again.
        self.loop.collect()
        self.loop.handover.release()
        self.loop.overlaps.rebuild()
        now_ns = monotonic_ns()
        for index in sorted(again, key=self.loop.handover.age_key):
            if self.loop.throttle.admit(index, <uint64_t>NO_POSITION, now_ns):
                self.loop.submit(index)
            crash_point("recovery: slot given again")
        for queue_index in range(QUEUE_LIMIT):
            self._resubmit_missing(queue_index, found)
            self.loop.table.call(queue_index)
        self.loop.handover.publish()
        self.loop.complete()
        return given_up

    def resubmit(self, uint32_t queue_index):
        """Do again what is in flight in a queue added after `take_over`: work of an earlier engine."""
        self._resubmit_missing(queue_index, {})

    def _take_back(self, live, bint own_fault):
        """Make PREPARED what no worker has: `(those slots, the ones of them that are given up)`."""
        cdef RequestSlot *slot
        again, given_up = [], []
        for index in live:
            slot = &self.loop.state.slots[<uint32_t>index]
            if self.loop.handover.is_with_worker(index):
                continue
            if own_fault and is_carried_out(slot) and self._count_death(slot, True):
                given_up.append(index)
            invariant(slot.state != SLOT_FREE, "a slot that is taken back is in use")
            slot.started_ns = 0   # nobody is at it
            slot.flags &= ~<uint32_t>SLOT_ADMITTED
            # Before it is handed again: of a HANDED slot, owner and ring position count as they stand.
            store_release_32(&slot.state, SLOT_PREPARED)
            crash_point("recovery: slot taken back")
            again.append(index)
        return again, given_up

    def _resubmit_missing(self, uint32_t queue_index, found):
        """Queue the heads in flight that have no slot: those of an engine that is gone."""
        virtqueue = self.loop.table.owners[queue_index]
        if virtqueue is None:
            return
        for head, counter in virtqueue.recovered.items():
            if (queue_index, head) not in found:
                self.loop.resubmissions.add(queue_index, head, counter)

    def worker_down(self, uint32_t worker_index, bint own_fault):
        """A worker was reaped: have what it held done elsewhere. Returns the slots given up because of it.

        `own_fault`: it died of what it did, and was not killed from outside.
        """
        cdef RequestSlot *slot
        self.loop.collect()
        suspect = self.loop.handover.worker_down(worker_index)
        held = self.loop.handover.held_by(worker_index)
        given_up = []
        if suspect < 0 or self.loop.state.slots[<uint32_t>suspect].flags & SLOT_LET_GO:
            self.quick_kills = 0
        elif self._count_death(&self.loop.state.slots[<uint32_t>suspect], own_fault):
            given_up.append(suspect)
        for index in held:
            slot = &self.loop.state.slots[<uint32_t>index]
            slot.started_ns = 0
            store_release_32(&slot.state, SLOT_PREPARED)
            crash_point("recovery: dead worker's slot taken back")
        self.loop.handover.reset_rings(worker_index)
        for index in held:
            if self.loop.state.slots[<uint32_t>index].flags & SLOT_LET_GO:
                self.loop.handover.end(index)
            else:
                self.loop.submit(index)
        self.loop.handover.publish()
        self.loop.complete()
        return given_up

    cdef bint _count_death(self, RequestSlot *slot, bint own_fault) noexcept nogil:
        """Count a death against the request that it came with; True when that is given up.

        Who kills workers from outside must never cost a request. So a kill counts only where it comes at the
        very start of the request, and three times with no other death in between.
        """
        if own_fault:
            slot.death_count += 1
        elif monotonic_ns() - slot.started_ns > QUICK_DEATH_NS:
            self.quick_kills = 0
            return False
        else:
            self.quick_kills = self.quick_kills + 1 if self.quickly_killed == slot.counter else 1
            self.quickly_killed = slot.counter
        if slot.death_count < DEATH_LIMIT and self.quick_kills < DEATH_LIMIT:
            return False
        self.quick_kills = 0
        slot.operation = OPERATION_COMPLETE
        self.loop.executor.fail(<uint32_t>(slot - self.loop.state.slots))
        return True

    def describe_slot(self, uint32_t slot_index):
        """What a log line says of a request."""
        cdef RequestSlot *slot = &self.loop.state.slots[slot_index]
        return (f"queue {slot.queue_index} head {slot.head_index} operation {slot.operation}"
                f" offset {slot.offset_bytes} length {slot.length_bytes}")
