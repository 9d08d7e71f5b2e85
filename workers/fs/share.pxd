from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from posix.uio cimport iovec

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.state.segment cimport StateSegment
from ringblk.shm.platform.folder_calls cimport statx
from ringblk.workers.fs.id_map cimport IdMap
from ringblk.workers.fs.open_inodes cimport OpenInode, OpenInodes
from ringblk.workers.fs.request cimport FileHandle, FolderHeader, FolderRequest, FoundInode
from ringblk.workers.fs.wire cimport fuse_attr, fuse_entry_out

cdef enum:
    VECTOR_LIMIT = 1024        # ranges in one call (IOV_MAX)
    BUFFER_BYTES = 1 << 17     # what is put together here, rather than in guest memory


cdef class ShareMemory:
    cdef object view           # keeps the mapping
    cdef FolderHeader *header


cdef class Share:
    cdef StateSegment state
    cdef GuestMemory memory
    cdef ShareMemory shared
    cdef FolderHeader *header
    cdef FolderRequest *requests
    cdef OpenInodes inodes
    cdef int mount_fd
    cdef int put_fd                  # the queue of files without names (nameless.pyx)
    cdef uint64_t entry_valid_s
    cdef uint64_t attr_valid_s
    cdef uint32_t open_flags         # of the answer to OPEN
    cdef uint32_t init_flags         # what is agreed to
    cdef uint32_t init_flags2
    cdef bint is_read_only
    cdef bint has_xattr
    cdef bint allows_direct          # O_DIRECT of a guest's file is the host's, too
    cdef IdMap host_uids             # what a guest's numbers are here,
    cdef IdMap host_gids
    cdef IdMap guest_uids            # and the host's there
    cdef IdMap guest_gids
    cdef uint64_t window_bytes       # files may be mapped into the guest there (window.pyx); 0: they may not
    cdef bint is_stateless           # OPEN is not needed, and says so
    cdef bint changes_user           # requests are carried out as who makes them
    cdef uint32_t own_uid
    cdef uint32_t own_gid
    cdef uint32_t as_uid             # as whom files are made at the moment
    cdef uint32_t as_gid
    cdef uint32_t mask               # umask(2)
    cdef bint has_lasting_numbers    # of inodes
    cdef bint was_begun              # the request at hand, by a process that has died
    cdef uint64_t forgotten_head
    cdef uint8_t *buffer
    cdef iovec vectors[VECTOR_LIMIT]

    cdef int fd_of(self, const FolderRequest *request, uint32_t access) noexcept nogil
    cdef int fds_of(self, const FolderRequest *request, uint32_t access, uint32_t other_access, int *fd,
                    int *other_fd) noexcept nogil
    cdef int look_up(self, int folder_fd, const char *name, FoundInode *found, fuse_entry_out *entry,
                     bint is_kept) noexcept nogil
    cdef OpenInode *known_of(self, const statx *status) noexcept nogil
    cdef int describe(self, int fd, FoundInode *found, fuse_entry_out *entry, statx *status) noexcept nogil
    cdef void fill_entry(self, const statx *status, const FoundInode *found, fuse_entry_out *entry) noexcept nogil
    cdef void fill_attr(self, const statx *found, fuse_attr *attr) noexcept nogil
    cdef int become(self, const FolderRequest *request) noexcept nogil
    cdef void be_itself(self) noexcept nogil
    cdef void use_mask(self, uint32_t mask) noexcept nogil
    cdef void drop_forgotten(self) noexcept nogil
    cdef int give(self, RequestSlot *slot, const FolderRequest *request, const void *payload,
                  uint32_t size_bytes) noexcept nogil
    cdef int give_read(self, RequestSlot *slot, const FolderRequest *request, uint32_t size_bytes) noexcept nogil
    cdef void put(self, RequestSlot *slot, uint64_t offset_bytes, const void *data, uint64_t size_bytes) noexcept nogil
    cdef int fill_vectors(self, RequestSlot *slot, uint32_t first, uint32_t count, uint64_t skipped_bytes,
                          uint64_t size_bytes) noexcept nogil
    cdef uint64_t gather(self, RequestSlot *slot, uint8_t *target, uint64_t room_bytes) noexcept nogil


cdef void fill_number(FileHandle *handle, uint64_t number, uint32_t kind) noexcept nogil
cdef uint64_t device_of(const statx *status) noexcept nogil
cdef uint64_t node_id_of(const FileHandle *handle) noexcept nogil
cdef bint is_same_handle(const FileHandle *handle, const FileHandle *other) noexcept nogil
cdef int read_file_handle(int fd, FileHandle *handle) noexcept nogil
