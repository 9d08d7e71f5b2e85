# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The dispatcher's loop: pop chains, hand them over, publish what is done, call the guest, sleep.

The one owner of every virtqueue. What a dispatcher has done at any instruction can be read from shared memory: a head
is in flight once its in-flight record says so, and then has a slot that says everything else; it is done once used.idx
has passed it. Recovery (recovery.pyx) goes on from there after a death.
"""

from libc.errno cimport EAGAIN, EPROTO
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ringblk.engine.dispatcher.chain_intake cimport ChainIntake
from ringblk.engine.dispatcher.cpu_placement cimport CpuPlacement
from ringblk.engine.dispatcher.ring cimport DispatcherRing
from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.engine.dispatcher.idle_poll cimport IdlePoll
from ringblk.engine.dispatcher.idle_wait cimport IdleWait
from ringblk.engine.dispatcher.inline_gate cimport InlineGate
from ringblk.engine.dispatcher.lost_memory cimport LostMemory
from ringblk.engine.dispatcher.overlap_list cimport OverlapList
from ringblk.engine.dispatcher.publication cimport publish_batch
from ringblk.engine.dispatcher.queue_table cimport QueueTable, ServedQueue
from ringblk.engine.dispatcher.request_recorder cimport RequestRecorder
from ringblk.engine.dispatcher.resubmission_list cimport Resubmission, ResubmissionList
from ringblk.engine.dispatcher.throttle cimport LANE_COUNT, NO_POSITION, Throttle
from ringblk.engine.dispatcher.unpop cimport unpop_waiting
from ringblk.shm.sync.atomic cimport load_acquire_32, store_relaxed_32, store_release_32
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.sync.invariant cimport invariant
from ringblk.shm.memory.dirty_log cimport DirtyLog
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.layout.region_set cimport RegionSet, region_mask, region_set
from ringblk.shm.layout.slot cimport NO_WORKER, SLOT_HANDED, SLOT_PREPARED, RequestSlot
from ringblk.shm.state.segment cimport QUEUE_LIMIT, QueueState, StateSegment
from ringblk.shm.queues.virtqueue cimport BROKEN_MEMORY, Virtqueue
from ringblk.workers.requests.request cimport (
    OPERATION_COMPLETE, OUTCOME_PENDING, SLOT_ADMITTED, SLOT_IN_PLACE, SLOT_PARTIAL, RequestExecutor, RequestParser,
)

cdef enum:
    EVENT_CONTROL = 1      # a message waits on the channel
    EVENT_PROGRESS = 2     # requests were completed while somebody waits for that
    EVENT_BROKEN = 3       # a queue broke
    EVENT_ERROR = 4        # a host I/O error of the dispatcher's own executor
    EVENT_LOST = 5         # memory that the front end shares cannot be reached any more
    EVENT_UNHEARD = 6      # a call could not be made
    EVENT_WISH = 7         # requests wait for workers that are not up (Handover.take_wish)

    POP_LIMIT = 64         # chains popped from one queue before others are looked at
    INLINE_BATCH = 8       # requests carried out here before the driver hears of them: of many that wait a quarter,
    LONG_BATCH = 32        # up to these: a call to the driver costs as much as some requests

CONTROL, PROGRESS, BROKEN, ERROR = EVENT_CONTROL, EVENT_PROGRESS, EVENT_BROKEN, EVENT_ERROR
LOST, UNHEARD, WISH = EVENT_LOST, EVENT_UNHEARD, EVENT_WISH

cdef class DispatchLoop:
    """Serves the queues given to it until something needs Python.

    `ring` has its part under way through io_uring. `executor` does here what `gate` allows, or what needs no worker.
    """

    def __cinit__(self, StateSegment state, GuestMemory memory, RequestParser parser, RequestExecutor executor,
                  Handover handover, QueueTable table, Throttle throttle, InlineGate gate, DispatcherRing ring,
                  IdlePoll idle_poll, CpuPlacement placement):
        self.state = state
        self.memory = memory
        self.parser = parser
        self.executor = executor
        self.handover = handover
        handover.first_queue_slots = parser.first_queue_slots
        self.overlaps = OverlapList(state, parser, handover)
        self.table = table
        self.throttle = throttle
        self.recorder = RequestRecorder(state, parser)
        self.gate = gate
        self.ring = ring
        self.placement = placement
        self.resubmissions = ResubmissionList()
        self.intake = ChainIntake(state, handover)
        self.lost_memory = LostMemory(state)
        self.idle = IdleWait(state, handover, table, throttle, ring, self.intake, self.resubmissions, self.lost_memory,
                             idle_poll, placement)

    # Queues

    def add_queue(self, Virtqueue virtqueue, fds, bint is_enabled):
        """Serve a queue that was resumed (`fds` as in `QueueTable.set_fds`)."""
        self.table.add_queue(virtqueue, fds, is_enabled)
        self.next_counter = max(self.next_counter, virtqueue.next_counter)

    def drain_queue(self, uint32_t queue_index):
        """Pop no more from a queue; what waits for tokens goes back to its ring, or on at once and leaves a debt."""
        self.table.set_enabled(queue_index, False)
        self.table.queues[queue_index].is_draining = True
        self._let_go(queue_index)
        self.handover.publish()

    def pause(self):
        """Pop nothing more until `resume`; what waits for tokens goes back to its ring, or on and leaves a debt."""
        self.table.set_paused(True)
        for queue_index in range(QUEUE_LIMIT):
            self._let_go(queue_index)
        self.handover.publish()

    def resume(self):
        """Pop again."""
        self.table.set_paused(False)

    def set_log(self, DirtyLog log):
        """Mark what is written from now on in this log, or in none; all that is in flight has not been told yet."""
        cdef Virtqueue virtqueue
        self.memory.set_log(log)
        for virtqueue in filter(None, self.table.owners):
            virtqueue.log_ring()

    def release_regions(self, mask):
        """What waits for tokens in these regions goes on at once, with all before it, and leaves a debt."""
        cdef RegionSet regions = region_set(mask)
        cdef uint32_t queue_index, lane_index
        for queue_index in range(<uint32_t>QUEUE_LIMIT):
            for lane_index in range(<uint32_t>LANE_COUNT):
                for _ in range(self.throttle.count_up_to(queue_index, lane_index, &regions)):
                    self.submit(self.throttle.take_from(queue_index, lane_index, monotonic_ns()))
        self.handover.publish()

    cdef void _let_go(self, uint32_t queue_index) noexcept nogil:
        """Have nothing of a queue wait for tokens: what was popped last was not, what remains begins."""
        cdef int slot_index
        unpop_waiting(self.state, self.table, self.handover, self.throttle, queue_index)
        slot_index = self.throttle.take_first(queue_index, monotonic_ns())
        while slot_index >= 0:
            self.submit(<uint32_t>slot_index)
            slot_index = self.throttle.take_first(queue_index, monotonic_ns())

    def unfinished_count(self, uint32_t queue_index):
        """A queue's requests in flight, and those of an earlier engine that are still to be taken in."""
        return self.table.inflight_count(queue_index) + self.resubmissions.count_of(queue_index)

    def used_regions(self):
        """The memory regions that requests in flight lie in, a bit for each index."""
        cdef RegionSet regions = region_set(0)
        with nogil:
            self.state.add_used_regions(&regions)
        return region_mask(&regions)

    def worker_up(self, uint32_t worker_index, int eventfd):
        """Begin to hand requests to a worker."""
        self.handover.worker_up(worker_index, eventfd)

    # The loop

    def run(self):
        """Serve until something needs Python; returns CONTROL, PROGRESS, BROKEN, ERROR, LOST, UNHEARD or WISH."""
        cdef int event
        with nogil:
            event = self._run()
        return event

    def take_control(self):
        """Clear the announcement of messages; to be called before the channel is read empty."""
        store_relaxed_32(&self.state.header.control_pending, 0)

    def take_broken(self):
        """The queues that broke since the last call, with their reasons."""
        cdef Virtqueue virtqueue
        broken = []
        for virtqueue in filter(None, self.table.owners):
            if virtqueue.broken and self.state.queues[virtqueue.queue_index].is_broken == 0:
                self.state.queues[virtqueue.queue_index].is_broken = virtqueue.broken
                broken.append((virtqueue.queue_index, virtqueue.broken))
        self.newly_broken = 0
        self.table.list_active()
        return broken

    def take_lost(self):
        """The lost regions, and a bit for each other part (`LostMemory.take`). All queues are broken by it."""
        cdef Virtqueue virtqueue
        for virtqueue in filter(None, self.table.owners):
            virtqueue.mark_broken(BROKEN_MEMORY)
            self.state.queues[virtqueue.queue_index].is_broken = BROKEN_MEMORY
        self.newly_broken = 0
        self.table.list_active()
        return self.lost_memory.take()

    cdef int _run(self) noexcept nogil:
        cdef uint32_t progress, popped
        while True:
            if self.table.has_control():
                return EVENT_CONTROL
            self.completed_count = 0
            self.collect()
            if self.handover.backlog_count:
                self.handover.give_backlog()
            progress = self._resubmit_all()
            popped = self._release_throttled() + self._release_held() + self._pop_all()
            self.handover.publish()
            self.ring.submit()
            self.complete()
            progress += self.completed_count
            if self.lost_memory.has_news():   # before a ring of zeroes is found to be broken
                return EVENT_LOST
            if self.table.newly_unheard:
                return EVENT_UNHEARD
            if self.newly_broken:
                return EVENT_BROKEN
            if self.handover.has_wish:
                return EVENT_WISH
            if self.executor.last_error:
                return EVENT_ERROR
            if progress and self.reports_progress:
                return EVENT_PROGRESS
            if progress == 0 and popped == 0:
                self.idle.wait()

    cdef void collect(self) noexcept nogil:
        """Publish what the workers have done, and what was pending here."""
        self.handover.collect()
        self.ring.reap(self.handover)
        self.complete()

    cdef uint32_t _release_throttled(self) noexcept nogil:
        """Submit what has waited for its tokens long enough."""
        cdef uint32_t count = 0
        cdef int slot_index
        cdef uint64_t now_ns
        if self.throttle.waiting_queues == 0:
            return 0
        now_ns = monotonic_ns()
        while True:
            slot_index = self.throttle.take_ready(now_ns)
            if slot_index < 0:
                return count
            self.submit(<uint32_t>slot_index)
            count += 1

    cdef uint32_t _release_held(self) noexcept nogil:
        """Begin what has waited for requests that change the same blocks."""
        cdef uint32_t place, count = self.overlaps.take_ready() if self.overlaps.woken_count else 0
        for place in range(count):
            self._begin(self.overlaps.ready[place])
        return count

    cdef uint32_t _resubmit_all(self) noexcept nogil:
        """Take in what an earlier engine had in flight, until a message waits; what is counted out is progress too."""
        cdef uint32_t count = 0
        cdef uint64_t now_ns
        cdef Resubmission *old
        if self.resubmissions.is_empty() or self.table.is_paused:
            return 0
        now_ns = monotonic_ns()
        while not self.resubmissions.is_empty() and self.handover.free_count:
            old = self.resubmissions.peek()
            if not self._resubmit(old, now_ns):
                break
            self.resubmissions.remove_first()
            if self.table.queues[old.queue_index].is_draining:   # nobody who stops a queue waits for tokens
                self._let_go(old.queue_index)
            count += 1
            if load_acquire_32(&self.state.header.control_pending):
                break
        return count

    cdef uint32_t _pop_all(self) noexcept nogil:
        """Pop from every queue in turn, or until a message waits: a chain may take milliseconds to read."""
        cdef uint32_t place, count, popped = 0
        cdef int first_waiter = -1
        cdef uint64_t now_ns = 0   # read once there is something to be popped
        if not self.idle.may_pop():
            return 0
        self.intake.begin_round()
        place = self.next_place
        for _ in range(self.table.active_count):
            if place >= self.table.active_count:
                place = 0
            if not self.intake.is_waiting(self.table.active[place]):
                count = self._pop_queue(<Virtqueue>self.table.queues[self.table.active[place]].virtqueue, &now_ns)
                popped += count
                if count == 0 and first_waiter < 0 and self.intake.is_waiting(self.table.active[place]):
                    first_waiter = <int>place
            place += 1
            if load_acquire_32(&self.state.header.control_pending):
                break
        # The queue that control kept from its turn has the next one; so has one that others left no long list.
        self.next_place = place if first_waiter < 0 else <uint32_t>first_waiter
        return popped

    cdef uint32_t _pop_queue(self, Virtqueue virtqueue, uint64_t *now_ns) noexcept nogil:
        cdef int head, available = virtqueue.available_count()
        cdef uint32_t popped = 0
        self.inline_batch = min(LONG_BATCH, max(INLINE_BATCH, available // 4))
        if available > 0 and now_ns[0] == 0:
            now_ns[0] = monotonic_ns()
        while available > 0 and popped < POP_LIMIT and self.handover.has_free(virtqueue.queue_index) \
                and not self.throttle.is_full(virtqueue.queue_index, self.table.active_count):
            head = virtqueue.peek()
            if head < 0 or self._take_in(virtqueue, <uint16_t>head, self.next_counter, now_ns[0], True) <= 0:
                break
            popped += 1
            available -= 1
            if load_acquire_32(&self.state.header.control_pending):
                break
        if virtqueue.broken:
            self.newly_broken = 1
        return popped

    cdef int _take_in(self, Virtqueue virtqueue, uint16_t head_index, uint64_t counter, uint64_t now_ns,
                      bint is_new) noexcept nogil:
        """Copy a chain into a slot, mark it in flight and submit it: 1. Else what `ChainIntake.read` returns."""
        cdef uint32_t slot_index = self.handover.peek_free()
        cdef QueueState *counters = &self.state.queues[virtqueue.queue_index]
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef int flags = self.intake.read(virtqueue, head_index, slot_index)
        if flags < 0:
            return flags
        self.handover.take_free()
        slot.queue_index = virtqueue.queue_index
        slot.head_index = head_index
        slot.memory_epoch = self.memory.epoch
        slot.worker_index = NO_WORKER
        slot.death_count = 0
        slot.throttled_ns = 0
        slot.popped_ns = now_ns
        slot.counter = counter
        self.parser.prepare(slot_index, flags)
        # Release: the whole slot before its state; pairs with recovery, which reads slots by state.
        store_release_32(&slot.state, SLOT_PREPARED)
        crash_point("dispatcher: slot prepared")
        if is_new:
            self.next_counter += 1
            virtqueue.take(head_index, counter)
            counters.popped_count += 1
        else:
            virtqueue.adopt(head_index, counter)
        if self.throttle.admit(slot_index, counters.popped_count if is_new else <uint64_t>NO_POSITION, now_ns):
            self.submit(slot_index)
        return 1

    cdef bint _resubmit(self, Resubmission *old, uint64_t now_ns) noexcept nogil:
        """Take a head of an earlier engine in, if its queue is still served. False: it has to wait for a long list."""
        cdef ServedQueue *queue = &self.table.queues[old.queue_index]
        cdef int taken
        if queue.virtqueue == NULL or not (<Virtqueue>queue.virtqueue).is_inflight(old.head_index):
            return True                 # the front end has cleared it
        taken = self._take_in(<Virtqueue>queue.virtqueue, old.head_index, old.counter, now_ns, False)
        if taken == -EPROTO:
            self.newly_broken = 1       # nobody must wait for it
        return taken != -EAGAIN

    cdef void submit(self, uint32_t slot_index) noexcept nogil:
        """Begin a request, unless one that changes the same blocks is to be done before."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        if (self.overlaps.partial_count or slot.flags & SLOT_PARTIAL) and not self.overlaps.admit(slot_index):
            return
        slot.flags |= SLOT_ADMITTED
        self._begin(slot_index)

    cdef void _begin(self, uint32_t slot_index) noexcept nogil:
        """Finish what needs no I/O, begin it or carry it out here, or give it to a worker."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        if slot.operation != OPERATION_COMPLETE and not slot.flags & SLOT_IN_PLACE:
            if self.ring.begin(slot_index, False):
                return
            if not self.gate.allows(slot):
                if self.handover.up_count == 0 and self.ring.begin(slot_index, True):   # rather than wait for a fork
                    self.handover.wish()
                else:
                    self.handover.give(slot_index)
                return
        invariant(slot.state == SLOT_PREPARED, "a slot that the dispatcher carries out is PREPARED")
        slot.worker_index = NO_WORKER
        store_release_32(&slot.state, SLOT_HANDED)
        crash_point("dispatcher: inline request begun")
        slot.started_ns = monotonic_ns()
        if slot.operation != OPERATION_COMPLETE and self.executor.execute(slot_index) == OUTCOME_PENDING:
            self.ring.keep_pending(slot)
            return
        self.executor.finish(slot_index)
        slot.done_ns = monotonic_ns()
        if slot.operation != OPERATION_COMPLETE and not slot.flags & SLOT_IN_PLACE:
            self.gate.note(slot)
        crash_point("dispatcher: inline request done")
        self.handover.batch[self.handover.batch_count] = slot_index
        self.handover.batch_count += 1
        if self.handover.batch_count >= self.inline_batch:
            self.complete()   # so that the driver goes on meanwhile

    cdef void complete(self) noexcept nogil:
        """Publish the batch, and only then free its slots."""
        cdef uint32_t count = self.handover.batch_count
        if count == 0:
            return
        publish_batch(self.state, self.memory, self.table, self.handover, self.recorder)
        if self.overlaps.partial_count:
            self.overlaps.note_done()
        self.handover.release()
        self.placement.note_completed(count, self.state.slot_count - self.handover.free_count)
        self.completed_count += count
