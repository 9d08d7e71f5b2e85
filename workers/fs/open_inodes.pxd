from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t

from ringblk.workers.fs.request cimport FileHandle

cdef enum Access:
    ACCESS_PATH = 0      # to look at it, and to name what is in it
    ACCESS_READ = 1      # to read a file or a folder
    ACCESS_WRITE = 2     # and to write to it
    ACCESS_DIRECT = 3    # to read and write past the host's page cache; no other access does for this, nor this for others

cdef enum:
    OPEN_LIMIT = 1024


cdef struct OpenInode:
    uint64_t node_id     # 0: free
    int fd
    uint32_t access
    int32_t next_alike   # of those with the same hash, -1: the last
    int32_t newer
    int32_t older
    int64_t position     # of a folder: where the next reading begins; -1: unknown
    # What it is on the host, once that is known: while it is open, no other inode has this number on this device.
    bint is_numbered
    uint64_t number
    uint64_t device
    int32_t next_number  # of those with the same hash, -1: the last
    FileHandle handle


cdef class OpenInodes:
    cdef int mount_fd
    cdef uint32_t limit
    cdef readonly uint32_t count
    cdef int32_t newest
    cdef int32_t oldest
    cdef int32_t free_entry
    cdef int32_t *buckets
    cdef int32_t *numbers
    cdef OpenInode *entries

    cdef OpenInode *find(self, uint64_t node_id, uint32_t access) noexcept nogil
    cdef int open(self, uint64_t node_id, const FileHandle *handle, uint32_t access, OpenInode **found) noexcept nogil
    cdef int fd_of(self, uint64_t node_id, const FileHandle *handle, uint32_t access) noexcept nogil
    cdef OpenInode *keep(self, uint64_t node_id, uint32_t access, int fd) noexcept nogil
    cdef void note_number(self, OpenInode *entry, const FileHandle *handle, uint64_t number, uint64_t device) noexcept nogil
    cdef OpenInode *find_number(self, uint64_t number, uint64_t device) noexcept nogil
    cdef bint has_number(self, uint64_t number) noexcept nogil
    cdef void forget(self, uint64_t node_id, uint32_t least_access) noexcept nogil
    cdef void clear(self) noexcept nogil
    cdef void _use(self, int32_t place) noexcept nogil
    cdef void _unlink(self, int32_t place) noexcept nogil
    cdef void _push(self, int32_t place) noexcept nogil
    cdef void _drop(self, int32_t place) noexcept nogil
