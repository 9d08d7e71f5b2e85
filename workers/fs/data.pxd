from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.share cimport Share

# Each carries out a request and answers it, or gives a negative errno.
cdef int do_open(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_flush(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_read(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_write(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_fsync(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_syncfs(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_fallocate(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_lseek(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_copy(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
