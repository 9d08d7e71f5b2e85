# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Files that have lost their last name and that the guest may still have open.

The host's file system ends such a file when nobody has it open. Nobody does here for long: a process keeps what it has
used last, and may die. So before a file loses its last name, its descriptor goes into a socket's queue, which all
processes of the share have: it is there whoever dies. The dispatcher goes through the queue as the guest forgets
inodes, and takes out what nobody knows any more. That costs as much as there are in it, so the more it has found that
are still known, the more must be forgotten before it looks again.
"""

from libc.stdint cimport uint64_t
from posix.unistd cimport getpid

from ringblk.shm.platform.descriptor_queue cimport first_descriptor, queue_descriptor
from ringblk.shm.platform.folder_calls cimport S_IFMT, S_IFREG, close, open_name, read_statx, statx
from ringblk.shm.sync.atomic cimport load_acquire_32, store_release_32
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.fs.request cimport FileHandle
from ringblk.workers.fs.share cimport node_id_of, read_file_handle

cdef extern from "fcntl.h" nogil:
    int O_PATH

cdef enum:
    KEPT_SHARE = 4     # a sweep that leaves n waits for n // KEPT_SHARE inodes to be forgotten


cdef void hold_name(Share share, int folder_fd, const char *name) noexcept nogil:
    """A name is about to be removed: keep the file, if it is its last."""
    cdef statx found
    cdef FileHandle handle
    cdef int fd = open_name(folder_fd, name, O_PATH, 0)
    if fd < 0:
        return
    if read_statx(fd, &found) == 0 and found.stx_nlink == 1 and (found.stx_mode & S_IFMT) == S_IFREG \
            and read_file_handle(fd, &handle) == 0:
        hold_inode(share, node_id_of(&handle), fd)
    close(fd)


cdef void hold_inode(Share share, uint64_t node_id, int fd) noexcept nogil:
    """Keep a file; where the queue has no room for it, it stays as long as some process has it open."""
    store_release_32(&share.header.has_nameless, 1)
    crash_point("folder: about to be held")
    queue_descriptor(share.put_fd, node_id, fd)
    crash_point("folder: held")


cdef class NamelessInodes:
    """The dispatcher's view of the queue. `marker_fd` is any descriptor but a socket; all stay the caller's."""

    def __cinit__(self, InodeTable table, int put_fd, int take_fd, int marker_fd):
        self.table = table
        self.put_fd = put_fd
        self.take_fd = take_fd
        self.marker_fd = marker_fd
        self.marker = <uint64_t>getpid()   # no inode's; one of a dispatcher that has died is known to nobody
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
        cdef uint64_t node_id = 0, taken_id = 0
        cdef int fd = -1, taken_fd = -1
        store_release_32(&self.table.header.has_nameless, 0)
        self.kept_count = 0
        queue_descriptor(self.put_fd, self.marker, self.marker_fd)
        while first_descriptor(self.take_fd, &node_id, &fd, False) == 0:
            if node_id != self.marker and self.table.handle_of(node_id) != NULL \
                    and queue_descriptor(self.put_fd, node_id, fd) == 0:
                self.kept_count += 1
            crash_point("folder: held again")
            if fd >= 0:
                close(fd)
            if first_descriptor(self.take_fd, &taken_id, &taken_fd, True) == 0 and taken_fd >= 0:
                close(taken_fd)
            if node_id == self.marker:
                break
        self.seen_forgotten = self.table.header.forgotten_tail
        self.next_sweep = self.seen_forgotten + self.kept_count // KEPT_SHARE
