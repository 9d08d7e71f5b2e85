from libc.stdint cimport uint64_t

from ringblk.shm.platform.descriptor_queue cimport QueuedDescriptor
from ringblk.workers.fs.inode_table cimport InodeTable
from ringblk.workers.fs.share cimport Share


cdef int hold_name(Share share, int folder_fd, const char *name) noexcept nogil
cdef int hold_inode(Share share, uint64_t node_id, int fd) noexcept nogil


cdef class NamelessInodes:
    cdef InodeTable table
    cdef int put_fd
    cdef int take_fd
    cdef uint64_t kept_count        # that the last sweep has left
    cdef uint64_t seen_forgotten    # of the table's, when the last sweep was
    cdef uint64_t next_sweep        # how many must be forgotten until the next

    cdef void note_forgotten(self) noexcept nogil
    cdef void sweep(self) noexcept nogil
    cdef bint _put_back(self, QueuedDescriptor *entry, uint64_t number) noexcept nogil
