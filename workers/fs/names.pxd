from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.share cimport Share

# Each carries out a request and answers it, or gives a negative errno.
cdef int do_lookup(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_readlink(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_symlink(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_mknod(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_mkdir(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_create(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_tmpfile(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_unlink(Share share, RequestSlot *slot, FolderRequest *request, int flags) noexcept nogil
cdef int do_rename(Share share, RequestSlot *slot, FolderRequest *request, unsigned int flags) noexcept nogil
cdef int do_link(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
