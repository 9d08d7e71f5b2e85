from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.share cimport Share

# Each carries out a request and answers it, or gives a negative errno.
cdef int do_getattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_setattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_statx(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_statfs(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_access(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_getxattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_listxattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_setxattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_removexattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
