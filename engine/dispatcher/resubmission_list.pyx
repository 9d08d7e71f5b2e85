# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Heads that an earlier engine had in flight, in its order, until there is a slot for each of them."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc


cdef class ResubmissionList:
    """What is to be done again. Private to a dispatcher: its successor finds it in the in-flight records."""

    def __dealloc__(self):
        free(self.entries)

    cdef int add(self, uint32_t queue_index, uint32_t head_index, uint64_t counter) except -1:
        """Put a head behind the others."""
        cdef Resubmission *grown
        if self.end == self.room:
            grown = <Resubmission *>realloc(self.entries, (2 * self.room + 64) * sizeof(Resubmission))
            if grown == NULL:
                raise MemoryError
            self.entries = grown
            self.room = 2 * self.room + 64
        self.entries[self.end].queue_index = <uint16_t>queue_index
        self.entries[self.end].head_index = <uint16_t>head_index
        self.entries[self.end].counter = counter
        self.end += 1
        return 0

    cdef Resubmission *peek(self) noexcept nogil:
        """The oldest, which there must be; valid until the next `add`."""
        return &self.entries[self.first]

    cdef void remove_first(self) noexcept nogil:
        """Take the oldest out."""
        self.first += 1
        if self.first == self.end:
            self.first = self.end = 0

    def count_of(self, uint32_t queue_index):
        """How many heads of a queue are still to be taken in."""
        cdef uint32_t place, count = 0
        for place in range(self.first, self.end):
            count += self.entries[place].queue_index == queue_index
        return count

    def drop(self, uint32_t queue_index):
        """Leave a queue's heads to its next start: its record has them in flight."""
        cdef uint32_t place, kept = self.first
        for place in range(self.first, self.end):
            if self.entries[place].queue_index != queue_index:
                self.entries[kept] = self.entries[place]
                kept += 1
        self.end = kept
