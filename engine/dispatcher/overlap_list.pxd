from libc.stdint cimport uint32_t, uint8_t

from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.shm.state.segment cimport StateSegment
from ringblk.workers.requests.request cimport RequestParser


cdef class OverlapList:
    cdef StateSegment state
    cdef RequestParser parser
    cdef Handover handover
    cdef uint32_t partial_count       # partial requests under way or held; 0: nobody has to look further
    cdef uint32_t woken_count         # held requests whose blocker is done
    cdef uint32_t *partials           # partial requests under way
    cdef uint32_t under_way_count     # of them
    cdef uint32_t *held               # in the order in which they came
    cdef readonly uint32_t held_count
    cdef int *blocker                 # by slot: whom a held request waits for; -1: look again
    cdef uint8_t *is_blocking         # by slot: whether somebody waits for it
    cdef uint32_t *ready              # what `take_ready` has found

    cdef bint admit(self, uint32_t slot_index) noexcept nogil
    cdef void note_done(self) noexcept nogil
    cdef void _forget(self, uint32_t slot_index) noexcept nogil
    cdef uint32_t take_ready(self) noexcept nogil
    cdef void _note_begun(self, uint32_t slot_index) noexcept nogil
    cdef int _find_blocker(self, uint32_t slot_index, uint32_t held_before) noexcept nogil
    cdef int _find_change(self, uint32_t slot_index) noexcept nogil
