# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Files that have lost their last name and that the guest may still have open.

The host's file system ends such a file when nobody has it open. Nobody does here for long: a process keeps what it has
used last, and may die. So before a file loses its last name, its descriptor goes into a socket's queue, which all
processes of the share have: it is there whoever dies. The dispatcher goes through the queue as the guest forgets
inodes, and takes out what nobody knows any more. That costs as much as there are in it, so the more it has found that
are still known, the more must be forgotten before it looks again. What stays goes to the queue's end, marked with the
number of this sweep: where that comes first again, all have been looked at.
"""

from libc.errno cimport EMFILE, ENFILE
from libc.stdint cimport uint64_t

from ringblk.shm.platform.descriptor_queue cimport QueuedDescriptor, drop_first, first_queued, queue_descriptor
from ringblk.shm.platform.folder_calls cimport S_IFMT, S_IFREG, close, open_name, read_name_statx, statx
from ringblk.shm.sync.atomic cimport load_acquire_32, store_release_32
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.fs.open_inodes cimport ACCESS_PATH, OpenInode
from ringblk.workers.fs.request cimport FileHandle
from ringblk.workers.fs.share cimport node_id_of, read_file_handle

cdef extern from "fcntl.h" nogil:
    int O_PATH

cdef enum:
    KEPT_SHARE = 4     # a sweep that leaves n waits for n // KEPT_SHARE inodes to be forgotten


cdef int hold_name(Share share, int folder_fd, const char *name) noexcept nogil:
    """A name is about to be removed: keep the file, if it is its last; 0, or -EMFILE or -ENFILE: it must not be removed."""
    cdef statx found
    cdef FileHandle handle
    cdef OpenInode *known
    cdef uint64_t node_id
    cdef int fd
    if read_name_statx(folder_fd, name, &found) or found.stx_nlink != 1 or (found.stx_mode & S_IFMT) != S_IFREG:
        return 0
    known = share.known_of(&found)
    if known != NULL:
        hold_inode(share, known.node_id, known.fd)
        return 0
    fd = open_name(folder_fd, name, O_PATH, 0)
    if fd < 0:
        return fd if fd == -EMFILE or fd == -ENFILE else 0
    if read_file_handle(fd, &handle):
        close(fd)
        return 0
    node_id = node_id_of(&handle)
    if hold_inode(share, node_id, fd) == 0 or share.inodes.find(node_id, ACCESS_PATH) != NULL:
        close(fd)
    else:
        share.inodes.keep(node_id, ACCESS_PATH, fd)
    return 0


cdef int hold_inode(Share share, uint64_t node_id, int fd) noexcept nogil:
    """Keep a file: 0, or a negative errno: the queue has no room, so it stays as long as some process has it open."""
    cdef QueuedDescriptor entry
    cdef int error
    entry.number = node_id
    entry.mark = 0
    store_release_32(&share.header.has_nameless, 1)
    crash_point("folder: about to be held")
    error = queue_descriptor(share.put_fd, &entry, fd)
    crash_point("folder: held")
    return error


cdef class NamelessInodes:
    """The dispatcher's view of the queue, whose ends stay the caller's."""

    def __cinit__(self, InodeTable table, int put_fd, int take_fd):
        self.table = table
        self.put_fd = put_fd
        self.take_fd = take_fd
        self.table.header.has_nameless = 1  # maybe

    cdef void note_forgotten(self) noexcept nogil:
        """The guest may have forgotten some: look, if it is time to."""
        cdef uint64_t forgotten = self.table.header.forgotten_tail
        if forgotten == self.seen_forgotten or forgotten < self.next_sweep:
            return
        if self.kept_count or load_acquire_32(&self.table.header.has_nameless):
            self.sweep()

    cdef void sweep(self) noexcept nogil:
        """Take out what the guest does not know; the rest goes to the queue's end. A copy is there at any moment."""
        cdef QueuedDescriptor entry
        cdef uint64_t number = self.table.header.sweep_count + 1
        self.table.header.sweep_count = number   # before anything bears it: of one that dies nothing bears the next's
        store_release_32(&self.table.header.has_nameless, 0)
        self.kept_count = 0
        while first_queued(self.take_fd, &entry, NULL) == 0 and entry.mark != number:
            if self.table.handle_of(entry.number) != NULL:
                if not self._put_back(&entry, number):
                    break
                self.kept_count += 1
            crash_point("folder: held again")
            if drop_first(self.take_fd):
                break
        self.seen_forgotten = self.table.header.forgotten_tail
        self.next_sweep = self.seen_forgotten + self.kept_count // KEPT_SHARE

    cdef bint _put_back(self, QueuedDescriptor *entry, uint64_t number) noexcept nogil:
        """A copy of the first to the end; False: there is no room, and the first stays where it is."""
        cdef int fd = -1
        cdef int error = first_queued(self.take_fd, entry, &fd)
        entry.mark = number
        if error == 0 and fd >= 0:
            error = queue_descriptor(self.put_fd, entry, fd)
        if fd >= 0:
            close(fd)
        if error or fd < 0:
            self.kept_count += 1
            store_release_32(&self.table.header.has_nameless, 1)
            return False
        return True
