# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests that wait until others, which change the same blocks, are done.

A partial request changes part of a block: whoever carries it out reads the block, changes it and writes it
back. What somebody else writes to that block in between would be lost. So a partial request and any other
that changes its first or its last block are under way one after the other, in the order in which they came:
each waits for the last of those before it, which is done some day, and so nobody waits for ever. All other
requests go past. As long as there is no partial request, that costs one look at `partial_count`.

Nothing here is shared. A held request is a PREPARED slot; one that is under way has SLOT_ADMITTED, so that a
worker's death does not make it wait again. The next dispatcher finds in the slots what workers have under way
(`rebuild`), and holds the rest anew.
"""

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport calloc, free

from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.layout.slot cimport SLOT_FREE, SLOT_HANDED, RequestSlot
from ringblk.shm.state.segment cimport StateSegment
from ringblk.workers.requests.request cimport SLOT_ADMITTED, SLOT_CHANGES, SLOT_LET_GO, SLOT_PARTIAL, RequestParser

cdef enum:
    NOBODY = -1


cdef class OverlapList:
    """What is under way of partial requests, and what is held because of them."""

    def __cinit__(self, StateSegment state, RequestParser parser, Handover handover):
        self.state = state
        self.parser = parser
        self.handover = handover
        self.partials = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        self.held = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        self.ready = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        self.blocker = <int *>calloc(state.slot_count, sizeof(int))
        self.is_blocking = <uint8_t *>calloc(state.slot_count, sizeof(uint8_t))
        if self.partials == NULL or self.held == NULL or self.ready == NULL or self.blocker == NULL \
                or self.is_blocking == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.partials)
        free(self.held)
        free(self.ready)
        free(self.blocker)
        free(self.is_blocking)

    def rebuild(self):
        """Take in what workers have under way of an earlier dispatcher; nothing else is."""
        cdef uint32_t index
        for index in range(self.state.open_slot_count()):
            if self.state.slots[index].state == SLOT_HANDED and self.state.slots[index].flags & SLOT_PARTIAL:
                self.partial_count += 1
                self._note_begun(index)

    cdef bint admit(self, uint32_t slot_index) noexcept nogil:
        """Whether the request may begin now; otherwise it is held. To be asked while there are partial requests."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef int blocker
        if slot.flags & SLOT_ADMITTED or not slot.flags & SLOT_CHANGES:
            return True
        blocker = self._find_blocker(slot_index, self.held_count)
        if slot.flags & SLOT_PARTIAL:
            self.partial_count += 1
        if blocker == NOBODY:
            self._note_begun(slot_index)
            return True
        self.blocker[slot_index] = blocker
        self.is_blocking[blocker] = True
        self.held[self.held_count] = slot_index
        self.held_count += 1
        crash_point("overlap: request held")
        return False

    cdef void note_done(self) noexcept nogil:
        """The batch is published and about to be released: who waits for one of it may look again."""
        cdef uint32_t place
        for place in range(self.handover.batch_count):
            self._forget(self.handover.batch[place])

    cdef void _forget(self, uint32_t slot_index) noexcept nogil:
        cdef uint32_t place
        if self.state.slots[slot_index].flags & SLOT_PARTIAL:
            self.partial_count -= 1
            for place in range(self.under_way_count):
                if self.partials[place] == slot_index:
                    self.under_way_count -= 1
                    self.partials[place] = self.partials[self.under_way_count]
                    break
        if self.is_blocking[slot_index]:
            self.is_blocking[slot_index] = False
            for place in range(self.held_count):
                if self.blocker[self.held[place]] == <int>slot_index:
                    self.blocker[self.held[place]] = NOBODY
                    self.woken_count += 1

    cdef uint32_t take_ready(self) noexcept nogil:
        """Put what may begin now into `ready`, in order; it must be begun. Returns how many that are."""
        cdef uint32_t place, slot_index, kept = 0, count = 0
        cdef int blocker
        if self.woken_count == 0:
            return 0
        self.woken_count = 0
        for place in range(self.held_count):
            slot_index = self.held[place]
            if self.blocker[slot_index] == NOBODY:
                blocker = self._find_blocker(slot_index, kept)
                if blocker == NOBODY:
                    # Under way from now on: those behind it find it so.
                    self._note_begun(slot_index)
                    crash_point("overlap: request let go")
                    if self.state.slots[slot_index].flags & SLOT_LET_GO:
                        self.handover.end(slot_index)
                        continue
                    self.ready[count] = slot_index
                    count += 1
                    continue
                self.blocker[slot_index] = blocker
                self.is_blocking[blocker] = True
            self.held[kept] = slot_index
            kept += 1
        self.held_count = kept
        return count

    cdef void _note_begun(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        slot.flags |= SLOT_ADMITTED
        if slot.flags & SLOT_PARTIAL:
            self.partials[self.under_way_count] = slot_index
            self.under_way_count += 1

    cdef int _find_blocker(self, uint32_t slot_index, uint32_t held_before) noexcept nogil:
        """The last of those that the request has to wait for, among the first `held_before` held and all under way.

        The last, because those before it are likely to be done first: who waits is then woken once.
        """
        cdef uint32_t place
        for place in range(held_before, 0, -1):
            if self.parser.overlaps(slot_index, self.held[place - 1]):
                return <int>self.held[place - 1]
        if self.state.slots[slot_index].flags & SLOT_PARTIAL:
            return self._find_change(slot_index)
        for place in range(self.under_way_count):
            if self.parser.overlaps(slot_index, self.partials[place]):
                return <int>self.partials[place]
        return NOBODY

    cdef int _find_change(self, uint32_t slot_index) noexcept nogil:
        """A request under way, partial or not, that a partial one has to wait for."""
        cdef uint32_t index, used_count = self.state.slot_count - self.handover.free_count
        cdef RequestSlot *slot
        for index in range(self.state.slot_count):
            if used_count == 0:
                break
            slot = &self.state.slots[index]
            if slot.state == SLOT_FREE:
                continue
            used_count -= 1
            if slot.flags & SLOT_ADMITTED and slot.flags & SLOT_CHANGES and index != slot_index \
                    and self.parser.overlaps(slot_index, index):
                return <int>index
        return NOBODY
