# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Carrying out requests on a folder of the host: an opcode is an entry of a table."""

cimport cython
from libc.errno cimport ENOSYS
from libc.stdint cimport uint32_t
from libc.string cimport memset

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.attributes cimport (
    do_access, do_getattr, do_getxattr, do_listxattr, do_removexattr, do_setattr, do_setxattr, do_statfs, do_statx,
)
from ringblk.workers.fs.data cimport (
    do_copy, do_fallocate, do_flush, do_fsync, do_lseek, do_open, do_read, do_syncfs, do_write,
)
from ringblk.workers.fs.folders cimport do_readdir, do_readdirplus
from ringblk.workers.fs.names cimport (
    do_create, do_link, do_lookup, do_mkdir, do_mknod, do_readlink, do_rename, do_rename2, do_rmdir, do_symlink,
    do_tmpfile, do_unlink,
)
from ringblk.workers.fs.protocol cimport *
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.rules cimport OPCODE_LIMIT
from ringblk.workers.fs.session cimport do_init
from ringblk.workers.fs.share cimport Share
from ringblk.workers.fs.share_executor cimport ShareExecutor
from ringblk.workers.fs.window cimport Window

ctypedef int (*CarryOut)(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil

cdef CarryOut[OPCODE_LIMIT] functions
memset(functions, 0, sizeof(functions))


cdef int do_nothing(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    """FORGET and INTERRUPT: the dispatcher counts; requests that could be interrupted have an end of their own."""
    return 0


cdef int do_agree(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    """RELEASEDIR and DESTROY."""
    return share.give_read(slot, request, 0)


functions[<int>FUSE_LOOKUP] = do_lookup
functions[<int>FUSE_FORGET] = functions[<int>FUSE_BATCH_FORGET] = functions[<int>FUSE_INTERRUPT] = do_nothing
functions[<int>FUSE_GETATTR] = do_getattr
functions[<int>FUSE_SETATTR] = do_setattr
functions[<int>FUSE_READLINK] = do_readlink
functions[<int>FUSE_SYMLINK] = do_symlink
functions[<int>FUSE_MKNOD] = do_mknod
functions[<int>FUSE_MKDIR] = do_mkdir
functions[<int>FUSE_UNLINK] = do_unlink
functions[<int>FUSE_RMDIR] = do_rmdir
functions[<int>FUSE_RENAME] = do_rename
functions[<int>FUSE_RENAME2] = do_rename2
functions[<int>FUSE_LINK] = do_link
functions[<int>FUSE_OPEN] = functions[<int>FUSE_OPENDIR] = do_open
functions[<int>FUSE_READ] = do_read
functions[<int>FUSE_WRITE] = do_write
functions[<int>FUSE_STATFS] = do_statfs
functions[<int>FUSE_FLUSH] = functions[<int>FUSE_RELEASE] = do_flush
functions[<int>FUSE_RELEASEDIR] = functions[<int>FUSE_DESTROY] = do_agree
functions[<int>FUSE_FSYNC] = functions[<int>FUSE_FSYNCDIR] = do_fsync
functions[<int>FUSE_SETXATTR] = do_setxattr
functions[<int>FUSE_GETXATTR] = do_getxattr
functions[<int>FUSE_LISTXATTR] = do_listxattr
functions[<int>FUSE_REMOVEXATTR] = do_removexattr
functions[<int>FUSE_INIT] = do_init
functions[<int>FUSE_READDIR] = do_readdir
functions[<int>FUSE_READDIRPLUS] = do_readdirplus
functions[<int>FUSE_ACCESS] = do_access
functions[<int>FUSE_CREATE] = do_create
functions[<int>FUSE_TMPFILE] = do_tmpfile
functions[<int>FUSE_FALLOCATE] = do_fallocate
functions[<int>FUSE_LSEEK] = do_lseek
functions[<int>FUSE_COPY_FILE_RANGE] = do_copy
functions[<int>FUSE_SYNCFS] = do_syncfs
functions[<int>FUSE_STATX] = do_statx


@cython.final
cdef class FolderExecutor(ShareExecutor):
    """Executes requests on one shared folder."""

    cdef Window window        # None: no front end has given a channel for it, to this process

    def set_backend_channel(self, int fd, bint is_new, bint is_legacy):
        """Have the front end map files, on this channel."""
        if self.window is None:
            self.window = Window(self.share, self.share.window_bytes)
            self.outcome_fd = self.window.ready_fd
        self.window.set_channel(fd, is_new, is_legacy)

    def hurry(self):
        """Wait for the front end no more."""
        if self.window is not None:
            self.window.give_up()

    cdef int reap(self) noexcept nogil:
        return self.window.reap()

    cdef bint has_outcomes(self) noexcept nogil:
        return self.window.done_count != 0

    cdef bint is_pending(self, uint32_t slot_index) noexcept nogil:
        return self.window is not None and self.window.is_pending(slot_index)

    cdef int carry_out(self, RequestSlot *slot, FolderRequest *request) noexcept nogil:
        """The parser has looked at the opcode: there is a rule for it (`rules.pyx`)."""
        cdef CarryOut function = functions[request.header.opcode]
        if function != NULL:
            return function(self.share, slot, request)
        if request.header.opcode == FUSE_SETUPMAPPING or request.header.opcode == FUSE_REMOVEMAPPING:
            return self._map(<uint32_t>(slot - self.share.state.slots), slot, request)
        return -ENOSYS

    cdef int _map(self, uint32_t slot_index, RequestSlot *slot, FolderRequest *request) noexcept nogil:
        """SETUPMAPPING and REMOVEMAPPING, which may be pending then."""
        cdef int error
        if self.window is None:
            return -ENOSYS
        if request.header.opcode == FUSE_SETUPMAPPING:
            error = self.window.set_up(slot_index)
        else:
            error = self.window.remove(slot_index)
        if error or self.window.is_pending(slot_index):
            return error
        return self.share.give_read(slot, request, 0)
