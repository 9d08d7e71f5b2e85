from ringblk.shm.slot cimport RequestSlot
from ringblk.shm.state cimport StateSegment
from ringblk.workers.request cimport RequestParser

cdef class RequestRecorder:
    cdef StateSegment state
    cdef RequestParser parser

    cdef void record(self, RequestSlot *slot) noexcept nogil
