# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The dispatcher's side of the worker rings: which worker gets a slot, and which slots came back.

A slot for which a worker that is not up would be quickest waits in the backlog, PREPARED, until one has come: workers
are asked for (`take_wish`), once at a time, and the answer comes behind those that did. Any worker that has nothing to
do meanwhile takes from the backlog, so nothing waits for a process that cannot be had.

Every cursor has one writer, so a dead process leaves nothing to repair. Who holds a slot is written in the
slot before it is pushed (`worker_index`, `ring_position`, state HANDED); it was really pushed if its ring
position lies before the ring's published tail. A slot is done when it stands in a done ring.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ringblk.shm.platform.wakeup_fd cimport signal_wakeup
from ringblk.shm.sync.atomic cimport load_acquire_32, load_relaxed_32, store_relaxed_32, store_release_32
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.sync.invariant cimport invariant
from ringblk.shm.layout.slot cimport NO_WORKER, SLOT_FREE, SLOT_HANDED, SLOT_PREPARED, RequestSlot
from ringblk.shm.state.segment cimport WORKER_LIMIT, StateSegment, WorkerState
from ringblk.shm.sync.wakeup cimport wake
from ringblk.workers.requests.request cimport SLOT_LET_GO, SLOT_LONG

cdef enum:
    # What waking a sleeping worker costs, against which its queue of work is weighed (docs/performance.md).
    WAKE_COST_NS = 40000
    FIRST_SERVICE_NS = 100000   # as long as nothing was measured: as a disk


cdef class Handover:
    """Slots between the dispatcher and its workers; goes on from the rings as it finds them."""

    def __cinit__(self, StateSegment state):
        cdef uint32_t index
        self.state = state
        self.index_mask = state.slot_count - 1
        self.free_slots = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        self.backlog = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        self.batch = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        if self.free_slots == NULL or self.backlog == NULL or self.batch == NULL:
            raise MemoryError
        self.service_ns = FIRST_SERVICE_NS
        for index in range(min(state.header.open_worker_count, <uint32_t>WORKER_LIMIT)):
            self.submit_tail[index] = state.workers[index].submit_tail
            self.collected_tail[index] = state.workers[index].done_head
            if self.submit_tail[index]:
                self.ring_count = index + 1

    def __dealloc__(self):
        free(self.free_slots)
        free(self.backlog)
        free(self.batch)

    def worker_up(self, uint32_t worker_index, int eventfd):
        """A worker serves these rings, woken through `eventfd`; once now, in case a wake-up was lost."""
        self.up_count += not self.is_up[worker_index]
        self.is_up[worker_index] = True
        self.is_wish_refused = False
        self.eventfds[worker_index] = eventfd
        self.ring_count = max(self.ring_count, worker_index + 1)
        signal_wakeup(self.eventfds[worker_index])
        crash_point("recovery: worker woken")
        self.give_backlog()
        self.publish()

    def worker_retire(self, uint32_t worker_index):
        """Give this worker nothing more; it finishes what it holds."""
        self.up_count -= self.is_up[worker_index]
        self.is_up[worker_index] = False
        crash_point("workers: given nothing more")

    def take_wish(self):
        """How many workers are to be up for what waits; to be asked for, and answered with `wish_answered`."""
        cdef uint64_t limit = load_relaxed_32(&self.state.header.worker_limit)
        cdef uint64_t worth = max(self.backlog_count * self.service_ns // WAKE_COST_NS, <uint64_t>1)
        self.has_wish = False
        self.is_wish_open = True
        return min(limit, self.up_count + min(worth, <uint64_t>max(self.backlog_count, <uint32_t>1)))

    def wish_answered(self, bint is_met):
        """They are up; or they cannot be now, and those that are have to do until another is."""
        self.is_wish_open = False
        self.is_wish_refused = not is_met
        self.give_backlog()
        self.publish()

    def held_count(self, uint32_t worker_index):
        """How many slots a worker holds."""
        return self.load[worker_index]

    def worker_down(self, uint32_t worker_index):
        """Take everything from a worker that was reaped; returns the slot it died on, or -1.

        What it had put into its done ring must have been collected and released before. The slots that it
        held are named by `held_by`; they are given again once `reset_rings` has emptied its ring.
        """
        cdef WorkerState *worker = &self.state.workers[worker_index]
        self.up_count -= self.is_up[worker_index]
        self.is_up[worker_index] = False
        self.publish()
        suspect = -1
        if worker.submit_head != worker.submit_tail:
            suspect = self.state.submit_entries(worker_index)[worker.submit_head & self.index_mask]
            if not self._is_held(suspect, worker_index) or not is_begun(&self.state.slots[<uint32_t>suspect]):
                suspect = -1
        return suspect

    cdef bint _is_held(self, uint32_t slot_index, uint32_t worker_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        return slot.state == SLOT_HANDED and slot.worker_index == worker_index

    def held_by(self, uint32_t worker_index):
        """The slots that a worker holds, oldest first."""
        held = [index for index in range(self.state.open_slot_count()) if self._is_held(index, worker_index)]
        held.sort(key=self.age_key)
        return held

    def age_key(self, uint32_t slot_index):
        """Orders slots as their chains were popped."""
        return self.state.slots[slot_index].popped_ns, self.state.slots[slot_index].counter

    def reset_rings(self, uint32_t worker_index):
        """Empty the submit ring of a worker that is down, once `held_by` was read."""
        cdef WorkerState *worker = &self.state.workers[worker_index]
        invariant(not self.is_up[worker_index], "a worker is down when its ring is emptied")
        store_relaxed_32(&worker.submit_head, worker.submit_tail)
        crash_point("recovery: dead worker's ring emptied")
        self.load[worker_index] = 0

    def free_all_but(self, live):
        """Rebuild the lists of free slots, all but `live`, and free long lists. Slots that are not live become FREE."""
        cdef uint32_t index
        live = set(live)
        taken = {self.state.slots[<uint32_t>slot_index].long_list for slot_index in live}
        self.free_list_count = 0
        for index in range(1, self.state.long_list_count + 1):
            if index not in taken:
                self.free_lists[self.free_list_count] = index
                self.free_list_count += 1
        self.free_count = 0
        self.has_slots = self.state.open_slot_count() != 0
        for index in reversed(range(self.state.open_slot_count())):
            if index not in live:
                if self.state.slots[index].state != SLOT_FREE:
                    store_relaxed_32(&self.state.slots[index].state, SLOT_FREE)
                    crash_point("recovery: stale slot freed")
                self.free_slots[self.free_count] = index
                self.free_count += 1
            else:
                invariant(self.state.slots[index].state != SLOT_FREE, "a slot that outlives its dispatcher is in use")

    def take_slots(self):
        """A queue starts, so there is memory for slots; they are all free if there was none before."""
        if not self.has_slots:
            self.free_all_but(())

    def under_way(self):
        """The slots that workers have been given and not put into their done rings, for recovery."""
        cdef uint32_t worker_index, position
        done = set()
        for worker_index in range(self.ring_count):
            position = self.state.workers[worker_index].done_head
            while position != load_acquire_32(&self.state.workers[worker_index].done_tail):
                done.add(self.state.done_entries(worker_index)[position & self.index_mask])
                position += 1
        return {index for index in range(self.state.open_slot_count()) if self._is_given(index) and index not in done}

    cdef bint _is_given(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        # Behind the published tail: the entry was never seen by the worker.
        return (slot.state == SLOT_HANDED and slot.worker_index < WORKER_LIMIT
                and <int32_t>(slot.ring_position - self.submit_tail[slot.worker_index]) < 0)

    def is_with_worker(self, uint32_t slot_index):
        """Whether a HANDED slot was really pushed to a worker (who counts it as load), for recovery."""
        if not self._is_given(slot_index):
            return False
        self.load[self.state.slots[slot_index].worker_index] += 1
        return True

    cdef void note_service(self, uint64_t sample_ns) noexcept nogil:
        """Take a request's time into the average, with a sixteenth of its weight."""
        self.service_ns += (sample_ns >> 4) - (self.service_ns >> 4)

    cdef void give(self, uint32_t slot_index) noexcept nogil:
        """Hand a prepared slot to the worker that is likely to be done with it first, or keep it for one to come."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef int worker_index = self._choose(slot.popped_ns, slot.flags & SLOT_LONG)
        if worker_index < 0 or (self.least_cost_ns > WAKE_COST_NS and self._may_come()):
            self.backlog[self.backlog_count] = slot_index   # at most every slot: the array holds slot_count
            self.backlog_count += 1
            self.wish()
            crash_point("workers: request kept")
        else:
            self._hand(slot_index, worker_index)

    cdef void wish(self) noexcept nogil:
        """Ask for another worker, unless that has been done."""
        self.has_wish = not self.is_wish_open and self._may_come()

    cdef bint _may_come(self) noexcept nogil:
        """Whether there may be another worker, which would have nothing else to do."""
        return not self.is_wish_refused and self.up_count < load_relaxed_32(&self.state.header.worker_limit)

    cdef int _choose(self, uint64_t now_ns, bint is_long) noexcept nogil:
        """The worker with the least to wait for (`least_cost_ns`): its load, or a wake-up where it has none. -1: none is up.

        One that hangs is likely to hang at least as long again. The first is none for long requests, where there may be others.
        """
        cdef uint64_t cost_ns, least_ns = 0
        cdef uint32_t index
        cdef int best = -1
        for index in range(self.ring_count):
            if not self.is_up[index] or (is_long and index == 0 and (self.up_count > 1 or self._may_come())):
                continue
            cost_ns = WAKE_COST_NS
            if self.load[index]:
                cost_ns = self.load[index] * self.service_ns
                if now_ns > self.progress_ns[index] + cost_ns:
                    cost_ns = now_ns - self.progress_ns[index]
            if best < 0 or cost_ns < least_ns:
                best = <int>index
                least_ns = cost_ns
        self.least_cost_ns = least_ns
        return best

    cdef void _hand(self, uint32_t slot_index, uint32_t worker_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef uint32_t tail = self.submit_tail[worker_index]
        invariant(slot.state == SLOT_PREPARED, "a slot that a worker is handed is PREPARED")
        invariant(self.load[worker_index] < self.state.slot_count, "a worker's ring has room for what it is handed")
        slot.worker_index = <unsigned short>worker_index
        crash_point("dispatcher: owner written")
        slot.ring_position = tail
        # Release: owner and position before the state; recovery reads them after it.
        store_release_32(&slot.state, SLOT_HANDED)
        crash_point("dispatcher: handed in the slot")
        self.state.submit_entries(worker_index)[tail & self.index_mask] = slot_index
        self.submit_tail[worker_index] = tail + 1
        if self.load[worker_index] == 0:
            self.progress_ns[worker_index] = slot.popped_ns
        self.load[worker_index] += 1
        self.touched_workers |= (<uint64_t>1) << worker_index
        crash_point("dispatcher: submit entry written")

    cdef void publish(self) noexcept nogil:
        """Let the workers see what was handed to them, and wake those that sleep."""
        cdef uint32_t index
        for index in range(self.ring_count):
            if self.touched_workers >> index == 0:
                break
            if not (self.touched_workers >> index) & 1:
                continue
            # Release: slots and entries before the tail; pairs with the pump's acquire.
            store_release_32(&self.state.workers[index].submit_tail, self.submit_tail[index])
            crash_point("dispatcher: submit tail published")
            wake(&self.state.workers[index].sleeping, self.eventfds[index])
        self.touched_workers = 0

    cdef bint has_done(self) noexcept nogil:
        """Whether a done ring holds something."""
        cdef uint32_t index
        for index in range(self.ring_count):
            if load_acquire_32(&self.state.workers[index].done_tail) != self.collected_tail[index]:
                return True
        return False

    cdef uint32_t collect(self) noexcept nogil:
        """Put what the done rings hold into the batch; returns how much it was."""
        cdef uint32_t index, tail, slot_index, before = self.batch_count
        cdef RequestSlot *slot
        for index in range(self.ring_count):
            # Acquire: pairs with the pump's release of done_tail after outcome and entry.
            tail = load_acquire_32(&self.state.workers[index].done_tail)
            while self.collected_tail[index] != tail:
                slot_index = self.state.done_entries(index)[self.collected_tail[index] & self.index_mask]
                self.collected_tail[index] += 1
                invariant(slot_index < self.state.slot_count, "a done entry names a slot")
                slot = &self.state.slots[slot_index]
                if slot.state != SLOT_HANDED or slot.worker_index != index:
                    continue   # published by a dispatcher that died before it moved done_head
                invariant(self.load[index] > 0, "a worker gives back what it was handed")
                self.load[index] -= 1
                self.progress_ns[index] = slot.done_ns
                self.note_service(slot.done_ns - slot.started_ns)
                self.batch[self.batch_count] = slot_index
                self.batch_count += 1
        return self.batch_count - before

    cdef void release(self) noexcept nogil:
        """The batch is published and settled: its slots are free, and then its done entries are over.

        In this order, so that no slot is used again while an old done entry still names it.
        """
        cdef uint32_t index
        for index in range(self.batch_count):
            invariant(self.state.slots[self.batch[index]].state == SLOT_HANDED, "a slot that is released was HANDED")
            store_relaxed_32(&self.state.slots[self.batch[index]].state, SLOT_FREE)
            crash_point("dispatcher: slot freed")
        for index in range(self.ring_count):
            if self.state.workers[index].done_head != self.collected_tail[index]:
                store_release_32(&self.state.workers[index].done_head, self.collected_tail[index])
                crash_point("dispatcher: done head moved")
        for index in range(self.batch_count):
            self.add_free(self.batch[index])
        self.batch_count = 0

    cdef void add_free(self, uint32_t slot_index) noexcept nogil:
        """Have a FREE slot, and the long list that it had, to give away again."""
        cdef uint32_t long_list = self.state.slots[slot_index].long_list
        invariant(self.free_count < self.state.slot_count, "no more slots are free than there are")
        invariant(long_list <= self.state.long_list_count, "a slot has a long list that there is")
        self.free_slots[self.free_count] = slot_index
        self.free_count += 1
        if long_list:
            invariant(self.free_list_count < self.state.long_list_count, "no more long lists are free than there are")
            self.free_lists[self.free_list_count] = long_list
            self.free_list_count += 1

    cdef void end(self, uint32_t slot_index) noexcept nogil:
        """Put a prepared slot that was let go into the batch: nobody carries it out."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        slot.worker_index = NO_WORKER
        store_release_32(&slot.state, SLOT_HANDED)
        crash_point("suspend: slot ended")
        self.batch[self.batch_count] = slot_index
        self.batch_count += 1

    cdef void end_backlog(self) noexcept nogil:
        """End what waits for a worker and was let go."""
        cdef uint32_t place, kept = 0
        for place in range(self.backlog_count):
            if self.state.slots[self.backlog[place]].flags & SLOT_LET_GO:
                self.end(self.backlog[place])
            else:
                self.backlog[kept] = self.backlog[place]
                kept += 1
        self.backlog_count = kept

    cdef void give_backlog(self) noexcept nogil:
        """Try again to hand over what waits for a worker."""
        cdef uint32_t index, count = self.backlog_count
        self.backlog_count = 0
        for index in range(count):
            self.give(self.backlog[index])
