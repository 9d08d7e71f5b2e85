# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Carrying out file system requests from their slots: the workers' half (virtio 1.2, 5.11.6)."""

cimport cython
from libc.errno cimport EFAULT, EIO, ENOSYS
from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.fs.attributes cimport (
    do_access, do_getattr, do_getxattr, do_listxattr, do_removexattr, do_setattr, do_setxattr, do_statfs, do_statx,
)
from ringblk.workers.fs.data cimport (
    do_copy, do_fallocate, do_flush, do_fsync, do_lseek, do_open, do_read, do_syncfs, do_write,
)
from ringblk.workers.fs.folders cimport do_readdir
from ringblk.workers.fs.names cimport (
    do_create, do_link, do_lookup, do_mkdir, do_mknod, do_readlink, do_rename, do_symlink, do_tmpfile, do_unlink,
)
from ringblk.workers.fs.protocol cimport *
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.session cimport do_init
from ringblk.workers.fs.share cimport Share
from ringblk.workers.fs.window cimport Window
from ringblk.workers.fs.wire cimport fuse_out_header, fuse_rename2_in
from ringblk.workers.requests.request cimport OPERATION_COMPLETE, OUTCOME_DONE, OUTCOME_PENDING, RequestExecutor

cdef enum:
    AT_REMOVEDIR = 0x200


@cython.final
cdef class FolderExecutor(RequestExecutor):
    """Executes requests on one shared folder. A slot's status is its errno, or 0."""

    cdef Share share
    cdef Window window        # None: no front end has given a channel for it, to this process

    def __init__(self, Share share):
        self.share = share

    def set_backend_channel(self, int fd, bint is_new):
        """Have the front end map files, on this channel."""
        if self.window is None:
            self.window = Window(self.share, self.share.window_bytes)
            self.outcome_fd = self.window.ready_fd
        self.window.set_channel(fd, is_new)

    def hurry(self):
        """Wait for the front end no more."""
        if self.window is not None:
            self.window.give_up()

    cdef int reap(self) noexcept nogil:
        return self.window.reap()

    cdef bint has_outcomes(self) noexcept nogil:
        return self.window.done_count != 0

    cdef int execute(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.share.state.slots[slot_index]
        cdef FolderRequest *request = &self.share.requests[slot_index]
        cdef int error
        if request.is_concluded:     # done by a dispatcher that died before it had published this
            return OUTCOME_DONE
        slot.used_length_bytes = 0
        slot.status = EIO
        if self.share.memory.is_lost():
            return OUTCOME_DONE
        self.share.drop_forgotten()
        self.share.was_begun = request.is_begun
        request.is_begun = 1
        crash_point("folder: begun")
        request.found_count = 0
        error = self._carry_out(slot, request)
        if error == -EFAULT:
            self.share.memory.look_at(self.share.state.slot_ranges(slot_index), slot.readable_count + slot.writable_count)
        if self.share.memory.is_lost():
            request.found_count = 0
            return OUTCOME_DONE
        if error == -EIO:
            self.last_error = error
            self.last_error_slot = slot_index
        slot.status = <uint32_t>-error
        if error == 0 and self.window is not None and self.window.is_pending(slot_index):
            slot.status = EIO
            return OUTCOME_PENDING
        return OUTCOME_DONE

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

    cdef int _carry_out(self, RequestSlot *slot, FolderRequest *request) noexcept nogil:
        cdef uint32_t opcode = request.header.opcode
        if opcode == FUSE_READ:
            return do_read(self.share, slot, request)
        elif opcode == FUSE_WRITE:
            return do_write(self.share, slot, request)
        elif opcode == FUSE_LOOKUP:
            return do_lookup(self.share, slot, request)
        elif opcode == FUSE_GETATTR:
            return do_getattr(self.share, slot, request)
        elif opcode == FUSE_SETATTR:
            return do_setattr(self.share, slot, request)
        elif opcode == FUSE_READDIR or opcode == FUSE_READDIRPLUS:
            return do_readdir(self.share, slot, request, opcode == FUSE_READDIRPLUS)
        elif opcode == FUSE_OPEN or opcode == FUSE_OPENDIR:
            return do_open(self.share, slot, request)
        elif opcode == FUSE_FLUSH or opcode == FUSE_RELEASE:
            return do_flush(self.share, slot, request)
        elif opcode == FUSE_FORGET or opcode == FUSE_BATCH_FORGET or opcode == FUSE_INTERRUPT:
            return 0    # the dispatcher counts; requests that could be interrupted have an end of their own
        elif opcode == FUSE_RELEASEDIR or opcode == FUSE_DESTROY:
            return self.share.give_read(slot, request, 0)
        elif opcode == FUSE_INIT:
            return do_init(self.share, slot, request)
        elif opcode == FUSE_STATFS:
            return do_statfs(self.share, slot, request)
        elif opcode == FUSE_STATX:
            return do_statx(self.share, slot, request)
        elif opcode == FUSE_ACCESS:
            return do_access(self.share, slot, request)
        elif opcode == FUSE_READLINK:
            return do_readlink(self.share, slot, request)
        elif opcode == FUSE_LSEEK:
            return do_lseek(self.share, slot, request)
        elif opcode == FUSE_GETXATTR:
            return do_getxattr(self.share, slot, request)
        elif opcode == FUSE_LISTXATTR:
            return do_listxattr(self.share, slot, request)
        return self._change(slot, request)

    cdef int _change(self, RequestSlot *slot, FolderRequest *request) noexcept nogil:
        cdef uint32_t opcode = request.header.opcode
        if opcode == FUSE_CREATE:
            return do_create(self.share, slot, request)
        elif opcode == FUSE_MKDIR:
            return do_mkdir(self.share, slot, request)
        elif opcode == FUSE_MKNOD:
            return do_mknod(self.share, slot, request)
        elif opcode == FUSE_SYMLINK:
            return do_symlink(self.share, slot, request)
        elif opcode == FUSE_LINK:
            return do_link(self.share, slot, request)
        elif opcode == FUSE_TMPFILE:
            return do_tmpfile(self.share, slot, request)
        elif opcode == FUSE_UNLINK or opcode == FUSE_RMDIR:
            return do_unlink(self.share, slot, request, AT_REMOVEDIR if opcode == FUSE_RMDIR else 0)
        elif opcode == FUSE_RENAME or opcode == FUSE_RENAME2:
            return do_rename(self.share, slot, request,
                             (<fuse_rename2_in *>request.argument).flags if opcode == FUSE_RENAME2 else 0)
        elif opcode == FUSE_SETXATTR:
            return do_setxattr(self.share, slot, request)
        elif opcode == FUSE_REMOVEXATTR:
            return do_removexattr(self.share, slot, request)
        elif opcode == FUSE_FSYNC or opcode == FUSE_FSYNCDIR:
            return do_fsync(self.share, slot, request)
        elif opcode == FUSE_SETUPMAPPING or opcode == FUSE_REMOVEMAPPING:
            return self._map(<uint32_t>(slot - self.share.state.slots), slot, request)
        elif opcode == FUSE_SYNCFS:
            return do_syncfs(self.share, slot, request)
        elif opcode == FUSE_FALLOCATE:
            return do_fallocate(self.share, slot, request)
        elif opcode == FUSE_COPY_FILE_RANGE:
            return do_copy(self.share, slot, request)
        return -ENOSYS

    cdef void fail(self, uint32_t slot_index) noexcept nogil:
        self.share.state.slots[slot_index].used_length_bytes = 0
        self.share.state.slots[slot_index].status = EIO
        self.share.requests[slot_index].found_count = 0

    cdef void finish(self, uint32_t slot_index) noexcept nogil:
        """Answer with an errno what has failed, where an answer is expected."""
        cdef RequestSlot *slot = &self.share.state.slots[slot_index]
        cdef FolderRequest *request = &self.share.requests[slot_index]
        cdef fuse_out_header header
        if slot.status == 0 or not request.can_reply or request.header.opcode == FUSE_FORGET \
                or request.header.opcode == FUSE_BATCH_FORGET:
            return
        header.len = sizeof(header)
        header.error = -<int>slot.status
        header.unique = request.header.unique
        self.share.put(slot, 0, &header, sizeof(header))
        slot.used_length_bytes = sizeof(header)
