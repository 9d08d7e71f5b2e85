# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Chains read into slots, those with too many ranges for a slot into one of the few long lists.

A chain for which no long list is free waits in its ring, its queue with it. Who has one is in flight and
waits for nobody, so one becomes free in the end. Which lists are taken is written in the slots alone: the
next dispatcher finds them there.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.state.segment cimport LONG_RANGES, StateSegment
from ringblk.shm.queues.virtqueue cimport CHAIN_NO_ROOM, Virtqueue


cdef class ChainIntake:
    """Gives a chain its ranges. `handover` has the lists that are free."""

    def __cinit__(self, StateSegment state, Handover handover):
        self.state = state
        self.handover = handover

    cdef int read(self, Virtqueue virtqueue, uint16_t head_index, uint32_t slot_index) noexcept nogil:
        """Read a chain into a free slot; what `Virtqueue.read` returns, or -EAGAIN where it has to wait."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef int flags = virtqueue.read(head_index, slot, self.state.own_ranges(slot_index), self.state.ranges_per_slot)
        slot.long_list = 0
        if flags != CHAIN_NO_ROOM or self.state.long_list_count == 0:
            return flags
        if self.handover.free_list_count == 0:
            self.waiting_queues |= (<uint64_t>1) << virtqueue.queue_index
            return -EAGAIN
        # From its beginning: nothing of the first copy is kept.
        slot.long_list = self.handover.free_lists[self.handover.free_list_count - 1]
        flags = virtqueue.read(head_index, slot, self.state.long_ranges(slot.long_list), LONG_RANGES)
        if flags >= 0:
            self.handover.free_list_count -= 1
        return flags
