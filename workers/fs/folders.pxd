from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.share cimport Share

# Each carries out a request and answers it, or gives a negative errno.
cdef int do_readdir(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_readdirplus(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
