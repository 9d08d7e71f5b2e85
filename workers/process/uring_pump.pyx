# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A worker's loop over io_uring: many requests under way at once, submitted and reaped in batches.

It serves the same rings as the plain pump. What cannot go through the ring (unaligned or very scattered
requests, DISCARD) is executed in between. The ring also watches the worker's eventfd, so that one call waits
for completions and new requests alike.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.sync.atomic cimport load_acquire_32, store_relaxed_32, store_relaxed_64
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.sync.wakeup cimport end_sleep, prepare_sleep, wake
from ringblk.workers.backends.asynchronous cimport StorageOutcome
from ringblk.workers.backends.uring_form cimport UringForm
from ringblk.workers.process.pump cimport Pump


cdef class UringPump(Pump):
    """Runs one worker's rings over `form`."""

    cdef UringForm form

    def __init__(self, state, worker_index, memory, executor, own_eventfd, dispatcher_eventfd, channel_fd,
                 UringForm form):
        Pump.__init__(self, state, worker_index, memory, executor, own_eventfd, dispatcher_eventfd, channel_fd)
        self.form = form

    cdef bint _run(self) noexcept nogil:
        cdef uint32_t head = self.worker.submit_head
        cdef uint32_t progress
        while True:
            # Acquire: pairs with announce_control's release, after the message was sent.
            if load_acquire_32(&self.worker.control_pending):
                return True
            progress = self._reap()
            if self.form.has_hung_up:
                self.note_left_alone()
                continue
            if not self._begin_all(&head):
                return True
            if self.executor.last_error:
                return False
            self._advance(head, progress == 0)

    cdef bint _begin_all(self, uint32_t *head) noexcept nogil:
        """Begin what the submit ring holds, as far as there is room; False when memory is not mapped yet."""
        # Acquire: pairs with the dispatcher's release of the tail after slot and entry.
        cdef uint32_t tail = load_acquire_32(&self.worker.submit_tail)
        cdef uint32_t slot_index
        cdef uint64_t now_ns
        if head[0] == tail:
            return True
        now_ns = monotonic_ns()
        while head[0] != tail and self.form.free_count:
            slot_index = self.submit_entries[head[0] & self.index_mask]
            if not self.has_memory_for(slot_index):
                return False
            self.state.slots[slot_index].started_ns = now_ns
            crash_point("uring: taken")
            self._begin(slot_index)
            head[0] += 1
            store_relaxed_32(&self.worker.submit_head, head[0])
            crash_point("uring: head moved")
        return True

    cdef void _begin(self, uint32_t slot_index) noexcept nogil:
        if self.executor.begin(slot_index, self.form):
            crash_point("uring: entry filled")
            return
        self.executor.execute(slot_index)
        self._give_back(slot_index)
        wake(&self.state.header.dispatcher_sleeping, self.dispatcher_eventfd)

    cdef void _give_back(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        crash_point("uring: executed")
        self.executor.finish(slot_index)
        slot.done_ns = monotonic_ns()
        self._push_done(slot_index)
        store_relaxed_64(&self.worker.busy_ns, self.worker.busy_ns + (slot.done_ns - slot.started_ns))

    cdef uint32_t _reap(self) noexcept nogil:
        """Give back what has completed; returns how many requests that was."""
        cdef StorageOutcome outcome
        cdef uint32_t count = 0
        while self.form.reap(&outcome):
            crash_point("uring: completion taken")
            if not self.executor.end(<uint32_t>outcome.tag, outcome.result):
                self.executor.execute(<uint32_t>outcome.tag)
            self._give_back(<uint32_t>outcome.tag)
            count += 1
        if count:
            wake(&self.state.header.dispatcher_sleeping, self.dispatcher_eventfd)
        return count

    cdef void _advance(self, uint32_t head, bint may_sleep) noexcept nogil:
        """Submit what was begun; where nothing else is to be done, sleep until something completes or comes."""
        cdef bint has_work
        if not may_sleep:
            self.form.submit()
            crash_point("uring: entries submitted")
            return
        prepare_sleep(&self.worker.sleeping)
        crash_point("uring: about to sleep")
        has_work = load_acquire_32(&self.worker.control_pending) != 0
        if self.form.free_count and head != load_acquire_32(&self.worker.submit_tail):
            has_work = True
        self.form.wait(self.own_eventfd, has_work)
        end_sleep(&self.worker.sleeping)
