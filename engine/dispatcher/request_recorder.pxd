from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.state.segment cimport StateSegment
from ringblk.workers.requests.request cimport RequestParser

cdef class RequestRecorder:
    cdef StateSegment state
    cdef RequestParser parser

    cdef void record(self, RequestSlot *slot) noexcept nogil
