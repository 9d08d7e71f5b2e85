from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.share cimport Share
from ringblk.workers.fs.wire cimport fuse_entry_out, fuse_open_out


cdef packed struct CreateOut:
    fuse_entry_out entry
    fuse_open_out file


# Each carries out a request and answers it, or gives a negative errno.
cdef int do_lookup(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_readlink(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_symlink(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_mknod(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_mkdir(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_create(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_tmpfile(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_unlink(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_rmdir(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_rename(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_rename2(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
cdef int do_link(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil
