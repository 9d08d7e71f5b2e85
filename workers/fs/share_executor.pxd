from libc.stdint cimport uint32_t

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.share cimport Share
from ringblk.workers.requests.request cimport RequestExecutor


cdef class ShareExecutor(RequestExecutor):
    cdef Share share

    cdef int carry_out(self, RequestSlot *slot, FolderRequest *request) noexcept nogil
    cdef bint is_pending(self, uint32_t slot_index) noexcept nogil
