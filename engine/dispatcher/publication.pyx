# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What is done becomes the driver's: the order of steps that recovery relies on, for a batch of requests.

A death between any two of them is settled from the in-flight record (vhost-user, "Inflight I/O tracking"): the
batch stands in it before the driver can see anything, so a successor knows which heads it was.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.state.segment cimport QUEUE_LIMIT
from ringblk.shm.queues.virtqueue cimport Virtqueue
from ringblk.workers.requests.request cimport SLOT_LET_GO


cdef void log_batch(StateSegment state, GuestMemory memory, Handover handover) noexcept nogil:
    """Mark what the batch may have written of guest memory, whatever came of it, where the front end logs that."""
    cdef uint32_t place
    cdef RequestSlot *slot
    for place in range(handover.batch_count):
        slot = &state.slots[handover.batch[place]]
        memory.log_written(state.slot_ranges(handover.batch[place]) + slot.readable_count, slot.writable_count)
        if slot.has_last_byte:
            memory.log_written(&slot.last_byte, 1)


cdef void publish_batch(StateSegment state, GuestMemory memory, QueueTable table, Handover handover,
                        RequestRecorder recorder) noexcept nogil:
    """Publish the hand-over's batch: marks, used elements, used.idx, calls, in-flight records, in this order."""
    cdef uint32_t place, count = handover.batch_count
    cdef uint64_t touched = 0
    cdef RequestSlot *slot
    if recorder.parser.concludes:
        for place in range(count):
            recorder.parser.conclude(handover.batch[place])
    if memory.is_logged:
        log_batch(state, memory, handover)
    for place in range(count):
        slot = &state.slots[handover.batch[place]]
        if slot.flags & SLOT_LET_GO:
            continue
        (<Virtqueue>table.queues[slot.queue_index].virtqueue).give_back(slot.head_index, slot.used_length_bytes)
        recorder.record(slot)   # before the driver can know: whoever asks then finds it counted
        touched |= (<uint64_t>1) << slot.queue_index
    for place in range(<uint32_t>QUEUE_LIMIT):
        if touched >> place == 0:
            break
        if (touched >> place) & 1:
            (<Virtqueue>table.queues[place].virtqueue).publish()
            table.call_if_needed(place)
    for place in range(count):
        slot = &state.slots[handover.batch[place]]
        if not slot.flags & SLOT_LET_GO:
            (<Virtqueue>table.queues[slot.queue_index].virtqueue).forget(slot.head_index)
    for place in range(<uint32_t>QUEUE_LIMIT):
        if touched >> place == 0:
            break
        if (touched >> place) & 1:
            (<Virtqueue>table.queues[place].virtqueue).settle()
