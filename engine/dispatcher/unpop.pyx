# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests that were popped and wait for tokens go back to the ring that they came from.

A ring tells how far it was popped by one number, `next_avail`, so only what was popped last can go back, then what was
popped before it, up to a request that has begun. `popped_count` tells which pop that was, as `next_avail` comes round
while a request waits. The in-flight record comes first: from then on the request is not in flight, and a successor
frees its slot and counts `next_avail` from the record (used.idx and what is in flight).
"""

from libc.stdint cimport uint32_t

from ringblk.engine.dispatcher.queue_table cimport ServedQueue
from ringblk.shm.sync.atomic cimport store_relaxed_32
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.sync.invariant cimport invariant
from ringblk.shm.layout.slot cimport SLOT_FREE, SLOT_PREPARED, RequestSlot
from ringblk.shm.queues.virtqueue cimport Virtqueue
from ringblk.shm.state.segment cimport QueueState


cdef void unpop_waiting(StateSegment state, QueueTable table, Handover handover, Throttle throttle,
                        uint32_t queue_index) noexcept nogil:
    """Leave to the driver what was popped last from a queue and waits."""
    cdef ServedQueue *queue = &table.queues[queue_index]
    cdef QueueState *counters = &state.queues[queue_index]
    cdef RequestSlot *slot
    cdef int slot_index
    while queue.virtqueue != NULL and not (<Virtqueue>queue.virtqueue).broken:
        slot_index = throttle.take_back(queue_index, counters.popped_count)
        if slot_index < 0:
            return
        slot = &state.slots[<uint32_t>slot_index]
        invariant(slot.state == SLOT_PREPARED, "a slot whose chain goes back to its ring is PREPARED")
        (<Virtqueue>queue.virtqueue).unpop(slot.head_index)
        counters.popped_count -= 1
        store_relaxed_32(&slot.state, SLOT_FREE)
        crash_point("unpop: slot freed")
        handover.add_free(<uint32_t>slot_index)
