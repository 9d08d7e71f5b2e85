# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One 4 KiB read after the other through every step of the data path, in one process, with a clock between steps.

The steps are those of DispatchLoop, Pump and FrontendQueue, in their order and on their structures, done for a
batch of requests at a time. What is left out is what is between processes: wake-ups, and the cache lines that
move from core to core. So the sum is what a request costs at least.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ringblk.engine.frontend.queue cimport FrontendQueue, NativeCompletion
from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.shm.sync.atomic cimport load_acquire_32, store_release_32
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.layout.slot cimport NO_WORKER, SLOT_PREPARED, RequestSlot
from ringblk.shm.state.segment cimport StateSegment, WorkerState
from ringblk.shm.queues.virtqueue cimport Virtqueue
from ringblk.workers.requests.request cimport RequestExecutor, RequestParser

cdef enum:
    STEP_COUNT = 11
    BATCH_LIMIT = 256

STEP_NAMES = (
    "driver: write header and chain, publish",
    "pop: avail entry, copy and resolve the chain, mark in flight",
    "parse and check the request",
    "hand over: choose a worker, submit entry, publish",
    "worker: execute on the null backend (4 KiB memset)",
    "worker: status byte",
    "worker: done entry",
    "collect from the done ring",
    "link, used element",
    "publish used.idx, ask for a call, settle, free the slot",
    "driver: take the completion",
)


cdef class DataPath:
    """The parts of an engine with one queue and one worker, and its driver, all in this process."""

    cdef FrontendQueue driver
    cdef uint64_t data_gpa
    cdef StateSegment state
    cdef GuestMemory memory
    cdef Virtqueue virtqueue
    cdef Handover handover
    cdef RequestParser parser
    cdef RequestExecutor executor
    cdef uint64_t spent_ns[STEP_COUNT]
    cdef uint64_t counter
    cdef uint64_t sector_mask
    cdef uint32_t slots[BATCH_LIMIT]
    cdef int flags[BATCH_LIMIT]

    def __init__(self, FrontendQueue driver, uint64_t data_gpa, StateSegment state, GuestMemory memory,
                 Virtqueue virtqueue, Handover handover, RequestParser parser, RequestExecutor executor):
        self.driver = driver
        self.data_gpa = data_gpa
        self.state = state
        self.memory = memory
        self.virtqueue = virtqueue
        self.handover = handover
        self.parser = parser
        self.executor = executor
        self.sector_mask = (1 << 20) - 1

    def run(self, uint32_t batch_count, uint32_t batch_size) -> dict:
        """Put batch_count batches through; nanoseconds a request took in each step."""
        cdef uint32_t step, batch
        cdef int outcome = 0
        if not 1 <= batch_size <= BATCH_LIMIT:
            raise ValueError(f"a batch of {batch_size}")
        for step in range(STEP_COUNT):
            self.spent_ns[step] = 0
        with nogil:
            for batch in range(batch_count):
                outcome = self._put_through(batch_size)
                if outcome < 0:
                    break
        if outcome < 0:
            raise OSError(-outcome, "the data path")
        cdef double count = <double>batch_count * batch_size
        return {name: self.spent_ns[place] / count for place, name in enumerate(STEP_NAMES)}

    cdef int _put_through(self, uint32_t batch_size) noexcept nogil:
        cdef uint64_t clock_ns = monotonic_ns()
        cdef int outcome = self._offer(batch_size)
        if outcome < 0:
            return outcome
        clock_ns = self._note(0, clock_ns)
        outcome = self._pop(batch_size)
        if outcome < 0:
            return outcome
        clock_ns = self._note(1, clock_ns)
        self._parse(batch_size)
        clock_ns = self._note(2, clock_ns)
        self._hand_over(batch_size)
        clock_ns = self._note(3, clock_ns)
        clock_ns = self._work(batch_size, clock_ns)
        self.handover.collect()
        clock_ns = self._note(7, clock_ns)
        self._link(batch_size)
        clock_ns = self._note(8, clock_ns)
        self._publish(batch_size)
        clock_ns = self._note(9, clock_ns)
        outcome = self._take(batch_size)
        self._note(10, clock_ns)
        return outcome

    cdef uint64_t _note(self, uint32_t step, uint64_t begin_ns) noexcept nogil:
        cdef uint64_t now_ns = monotonic_ns()
        self.spent_ns[step] += now_ns - begin_ns
        return now_ns

    cdef int _offer(self, uint32_t batch_size) noexcept nogil:
        cdef uint32_t place
        cdef int head
        for place in range(batch_size):
            head = self.driver.start_request(0, (self.counter + place) * 8 & self.sector_mask,
                                             self.data_gpa + 4096 * <uint64_t>place, 4096, True)
            if head < 0:
                return head
        self.driver.virtqueue.publish_chains()
        return 0

    cdef int _pop(self, uint32_t batch_size) noexcept nogil:
        cdef RequestSlot *slot
        cdef uint32_t place, slot_index
        cdef int head
        if self.virtqueue.available_count() < <int>batch_size:
            return -5
        for place in range(batch_size):
            head = self.virtqueue.peek()
            if head < 0:
                return -5
            self.handover.free_count -= 1
            slot_index = self.handover.free_slots[self.handover.free_count]
            slot = &self.state.slots[slot_index]
            self.flags[place] = self.virtqueue.read(<uint16_t>head, slot, self.state.slot_ranges(slot_index),
                                                    self.state.ranges_per_slot)
            if self.flags[place] < 0:
                return self.flags[place]
            slot.queue_index = 0
            slot.head_index = <uint16_t>head
            slot.memory_epoch = self.memory.epoch
            slot.worker_index = NO_WORKER
            slot.death_count = 0
            slot.counter = self.counter + place
            self.slots[place] = slot_index
            self.virtqueue.take(<uint16_t>head, slot.counter)
        self.counter += batch_size
        return 0

    cdef void _parse(self, uint32_t batch_size) noexcept nogil:
        cdef uint32_t place
        for place in range(batch_size):
            self.parser.prepare(self.slots[place], self.flags[place])
            store_release_32(&self.state.slots[self.slots[place]].state, SLOT_PREPARED)

    cdef void _hand_over(self, uint32_t batch_size) noexcept nogil:
        cdef uint32_t place
        for place in range(batch_size):
            self.handover.give(self.slots[place])
        self.handover.publish()

    cdef uint64_t _work(self, uint32_t batch_size, uint64_t clock_ns) noexcept nogil:
        """What the pump does, a step at a time for the whole batch."""
        cdef WorkerState *worker = &self.state.workers[0]
        cdef uint32_t *submit_entries = self.state.submit_entries(0)
        cdef uint32_t *done_entries = self.state.done_entries(0)
        cdef uint32_t mask = self.state.slot_count - 1
        cdef uint32_t place, head = worker.submit_head, done_tail = worker.done_tail
        load_acquire_32(&worker.submit_tail)
        for place in range(batch_size):
            self.executor.execute(submit_entries[(head + place) & mask])
        clock_ns = self._note(4, clock_ns)
        for place in range(batch_size):
            self.executor.finish(submit_entries[(head + place) & mask])
        clock_ns = self._note(5, clock_ns)
        for place in range(batch_size):
            done_entries[(done_tail + place) & mask] = submit_entries[(head + place) & mask]
            store_release_32(&worker.done_tail, done_tail + place + 1)
            store_release_32(&worker.submit_head, head + place + 1)
        return self._note(6, clock_ns)

    cdef void _link(self, uint32_t batch_size) noexcept nogil:
        cdef uint32_t place
        cdef RequestSlot *slot
        for place in range(batch_size):
            slot = &self.state.slots[self.handover.batch[place]]
            self.virtqueue.give_back(slot.head_index, slot.used_length_bytes)

    cdef void _publish(self, uint32_t batch_size) noexcept nogil:
        cdef uint32_t place
        self.virtqueue.publish()
        self.virtqueue.needs_call()
        for place in range(batch_size):
            self.virtqueue.forget(self.state.slots[self.handover.batch[place]].head_index)
        self.virtqueue.settle()
        self.handover.release()

    cdef int _take(self, uint32_t batch_size) noexcept nogil:
        cdef NativeCompletion completion
        cdef uint32_t place
        cdef int found
        for place in range(batch_size):
            found = self.driver.take_completion(&completion)
            if found <= 0 or completion.status != 0:
                return -5
        return 0


def clock_ns(uint32_t count) -> float:
    """Nanoseconds that reading the clock takes."""
    cdef uint64_t begin_ns = monotonic_ns()
    cdef uint32_t index
    cdef uint64_t last_ns = begin_ns
    for index in range(count):
        last_ns = monotonic_ns()
    return (last_ns - begin_ns) / <double>count
