from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.share cimport Share

cdef int do_init(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
