# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The worker's loop: take slots from the submit ring, carry them out, put them into the done ring.

One worker owns one pair of rings. It moves two cursors, `submit_head` and `done_tail`; both mean nothing for
recovery but that a slot in the done ring is done. A worker may die anywhere: what it held and had not put
into the done ring is done again by another. That goes for requests that are pending, too
(workers/requests/request.pyx).
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from ringblk.shm.sync.atomic cimport load_acquire_32, load_relaxed_32, spin_hint, store_relaxed_32, store_relaxed_64
from ringblk.shm.sync.atomic cimport store_release_32
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.state.segment cimport StateHeader, StateSegment, WorkerState
from ringblk.shm.sync.wakeup cimport end_sleep, prepare_sleep, wait_any, wake
from ringblk.workers.requests.request cimport OUTCOME_PENDING, RequestExecutor

cdef enum:
    # A completion waits at most this long for others to share its wake-up of the dispatcher.
    WAKE_DELAY_NS = 20000


cdef class Pump:
    """Runs one worker's rings until there is a message to read or an error to report.

    `own_eventfd` wakes this worker, `dispatcher_eventfd` the dispatcher. A channel that is closed at its other
    end wakes this worker, too: that is a message to be read.
    """

    def __init__(self, StateSegment state, uint32_t worker_index, GuestMemory memory, RequestExecutor executor,
                 int own_eventfd, int dispatcher_eventfd, int channel_fd):
        self.state = state
        self.worker = &state.workers[worker_index]
        self.submit_entries = state.submit_entries(worker_index)
        self.done_entries = state.done_entries(worker_index)
        self.index_mask = state.slot_count - 1
        self.memory = memory
        self.executor = executor
        self.own_eventfd = own_eventfd
        self.dispatcher_eventfd = dispatcher_eventfd
        self.channel_fd = channel_fd
        store_relaxed_32(&self.worker.sleeping, 0)   # a predecessor may have died asleep

    def run(self):
        """Serve the rings. Returns True when a message waits on the channel, False after a host I/O error."""
        cdef bint is_control
        with nogil:
            is_control = self._run()
        return is_control

    def take_control(self):
        """Clear the announcement of messages; to be called before the channel is read empty."""
        store_relaxed_32(&self.worker.control_pending, 0)

    cdef bint _run(self) noexcept nogil:
        cdef uint32_t head = self.worker.submit_head
        while True:
            # Acquire: pairs with announce_control's release, after the message was sent.
            if load_acquire_32(&self.worker.control_pending):
                return True
            if self.pending_count:
                self._reap()
                if self.executor.last_error:
                    return False
            # Acquire: pairs with the dispatcher's release of the tail after slot and entry.
            if head == load_acquire_32(&self.worker.submit_tail):
                self._sleep(head)
                continue
            if not self._serve(&head):
                return True
            if self.executor.last_error:
                return False

    cdef bint _serve(self, uint32_t *head) noexcept nogil:
        """Do what the submit ring holds; False when a slot needs memory that was not announced here yet."""
        cdef uint32_t tail = load_acquire_32(&self.worker.submit_tail)   # pairs as in _run
        cdef uint64_t now_ns = monotonic_ns(), waked_ns = now_ns
        cdef uint32_t slot_index
        cdef RequestSlot *slot
        cdef bint has_memory = True, has_pending = False
        while head[0] != tail:
            slot_index = self.submit_entries[head[0] & self.index_mask]
            slot = &self.state.slots[slot_index]
            if not self.has_memory_for(slot_index):
                has_memory = False
                break
            slot.started_ns = now_ns
            crash_point("worker: taken")
            if self.executor.execute(slot_index) == OUTCOME_PENDING:
                crash_point("pending: left by a worker")
                self.pending_count += 1
                has_pending = True
                head[0] += 1
                store_relaxed_32(&self.worker.submit_head, head[0])
                crash_point("pending: head moved")
                now_ns = monotonic_ns()
                continue
            crash_point("worker: executed")
            self.executor.finish(slot_index)
            now_ns = monotonic_ns()
            slot.done_ns = now_ns
            head[0] += 1
            self._push_done(slot_index)
            store_relaxed_32(&self.worker.submit_head, head[0])
            crash_point("worker: head moved")
            store_relaxed_64(&self.worker.busy_ns, self.worker.busy_ns + (now_ns - slot.started_ns))
            if now_ns - waked_ns > WAKE_DELAY_NS:
                wake(&self.state.header.dispatcher_sleeping, self.dispatcher_eventfd)
                waked_ns = now_ns
            if self.executor.last_error or load_relaxed_32(&self.worker.control_pending):
                break
        if has_pending:
            self.executor.submit()
        wake(&self.state.header.dispatcher_sleeping, self.dispatcher_eventfd)
        return has_memory

    cdef uint32_t _reap(self) noexcept nogil:
        """Give back what is pending no more; returns how many requests that was."""
        cdef int slot_index = self.executor.reap()
        cdef uint32_t count = 0
        while slot_index >= 0:
            crash_point("pending: reaped by a worker")
            self.pending_count -= 1
            self.executor.finish(<uint32_t>slot_index)
            self.state.slots[slot_index].done_ns = monotonic_ns()
            self._push_done(<uint32_t>slot_index)
            count += 1
            slot_index = self.executor.reap()
        if count:
            wake(&self.state.header.dispatcher_sleeping, self.dispatcher_eventfd)
        return count

    cdef void note_left_alone(self) noexcept nogil:
        """Nobody is at the channel's other end any more: have it read."""
        store_relaxed_32(&self.worker.control_pending, 1)

    cdef bint has_memory_for(self, uint32_t slot_index) noexcept nogil:
        """Whether every region that the slot may name is mapped here; otherwise the channel says where it is."""
        return <int32_t>(self.state.slots[slot_index].memory_epoch - self.memory.epoch) <= 0

    cdef void _push_done(self, uint32_t slot_index) noexcept nogil:
        """Give a slot back whose outcome is written."""
        cdef uint32_t done_tail = self.worker.done_tail
        self.done_entries[done_tail & self.index_mask] = slot_index
        crash_point("worker: done entry written")
        store_relaxed_64(&self.worker.request_count, self.worker.request_count + 1)
        # Release: outcome and status byte before the cursor; pairs with the dispatcher's acquire.
        store_release_32(&self.worker.done_tail, done_tail + 1)
        crash_point("worker: done published")

    cdef void _sleep(self, uint32_t head) noexcept nogil:
        cdef int outcome_fd = self.executor.outcome_fd if self.pending_count else -1
        prepare_sleep(&self.worker.sleeping)
        crash_point("worker: about to sleep")
        if head == load_acquire_32(&self.worker.submit_tail) and not load_acquire_32(&self.worker.control_pending):
            if self.pending_count == 0 or not self.executor.has_outcomes():
                if wait_any(self.own_eventfd, outcome_fd, self.channel_fd):
                    self.note_left_alone()
        end_sleep(&self.worker.sleeping)
