# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A shared folder as one process has it: what all requests on it need.

A node id is made of the file handle: all processes make the same of the same inode, and after a loss of all that is known
here a guest that looks a name up again gets the same id again.
"""

import mmap
import os

from libc.errno cimport EINVAL, EIO, EMFILE, EOVERFLOW, EPERM
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from ringblk.shm.sync.atomic cimport load_acquire_64
from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.shm.layout.slot cimport Range
from ringblk.shm.platform.folder_calls cimport (
    S_IFDIR, S_IFMT, S_IFREG, close, fstatfs, has_user_right, makedev, open_name, read_handle, read_name_statx, read_statx,
    setfsgid, setfsuid, statfs, umask,
)
from ringblk.workers.fs.id_map cimport IdMap
from ringblk.workers.fs.protocol cimport FUSE_ATTR_DAX, FUSE_ROOT_ID
from ringblk.workers.fs.open_inodes cimport ACCESS_PATH
from ringblk.workers.fs.request cimport (
    FOLDER_LAYOUT_VERSION, FORGOTTEN_LIMIT, HANDLE_BYTES, INODE_LIMIT, REQUEST_LIMIT, CHUNK_BYTES,
    WINDOW_CHUNK_LIMIT, InodeRecord, WindowChunk, folder_requests,
)
from ringblk.workers.fs.wire cimport fuse_out_header

cdef extern from "fcntl.h" nogil:
    int O_PATH

cdef enum:
    STATX_ATTR_MOUNT_ROOT = 0x2000
    # Of fstatfs(2).
    TMPFS_TYPE = 0x01021994
    RAMFS_TYPE = 0x858458F6
    EXT_TYPE = 0xEF53
    XFS_TYPE = 0x58465342
    BTRFS_TYPE = 0x9123683E
    F2FS_TYPE = 0xF2F52010

FOLDER_MEMORY_BYTES = 16384 + REQUEST_LIMIT * sizeof(FolderRequest) + <size_t>INODE_LIMIT * sizeof(InodeRecord) \
    + WINDOW_CHUNK_LIMIT * sizeof(WindowChunk)
assert sizeof(FolderHeader) <= 16384, "requests begin behind the header"


cdef uint64_t node_id_of(const FileHandle *handle) noexcept nogil:
    """The guest's name for an inode: 64 bits that are spread well (FNV-1a, and the end of MurmurHash3)."""
    cdef uint64_t value = <uint64_t>0xCBF29CE484222325 ^ <uint32_t>handle.type ^ (<uint64_t>handle.mount_index << 32)
    cdef uint32_t place
    for place in range(handle.length_bytes):
        value = (value ^ handle.data[place]) * <uint64_t>0x100000001B3
    value = (value ^ (value >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
    value = (value ^ (value >> 33)) * <uint64_t>0xC4CEB9FE1A85EC53
    value ^= value >> 33
    return value if value > <uint64_t>FUSE_ROOT_ID else value + 2


cdef bint is_same_handle(const FileHandle *handle, const FileHandle *other) noexcept nogil:
    """Whether they are of one inode."""
    return handle.length_bytes == other.length_bytes and handle.type == other.type \
        and handle.mount_index == other.mount_index and memcmp(handle.data, other.data, handle.length_bytes) == 0


cdef int read_file_handle(int fd, FileHandle *handle) noexcept nogil:
    """The handle of what is open; 0 or a negative errno."""
    cdef int size_bytes = read_handle(fd, handle.data, HANDLE_BYTES, &handle.type)
    if size_bytes < 0:
        return size_bytes
    handle.length_bytes = <unsigned short>size_bytes
    handle.mount_index = 0
    return 0


cdef void fill_number(FileHandle *handle, uint64_t number, uint32_t kind) noexcept nogil:
    """The handle of an inode that has a number and no file of the host (`python_executor.pyx`)."""
    memset(handle, 0, sizeof(FileHandle))
    handle.length_bytes = sizeof(number)
    memcpy(handle.data, &number, sizeof(number))
    handle.mode = kind


cdef class ShareMemory:
    """What the processes of a share have in common. `memory_fd` stays the caller's.

    `mount_fd` is the folder's, or -1: inodes are numbers.
    """

    def __init__(self, int memory_fd, int mount_fd):
        cdef statx found
        self.view = memoryview(mmap.mmap(memory_fd, FOLDER_MEMORY_BYTES))
        self.header = <FolderHeader *>address_of(self.view)
        if self.header.layout_version == 0:
            self.header.layout_version = FOLDER_LAYOUT_VERSION
        if mount_fd < 0:
            fill_number(&self.header.root, FUSE_ROOT_ID, S_IFDIR)
        elif self.header.root.length_bytes == 0:
            error = read_statx(mount_fd, &found)
            self.header.root.mode = found.stx_mode & S_IFMT
            error = error or read_file_handle(mount_fd, &self.header.root)
            if error:
                raise OSError(-error, os.strerror(-error))


cdef uint64_t device_of(const statx *status) noexcept nogil:
    return <uint64_t>status.stx_dev_major << 32 | status.stx_dev_minor


cdef bint _has_lasting_numbers(int mount_fd) noexcept nogil:
    """Whether an inode's number is no other's while it is open, whatever a server may do: not so of networks' file systems."""
    cdef statfs found
    if fstatfs(mount_fd, &found):
        return False
    return found.f_type in (TMPFS_TYPE, RAMFS_TYPE, EXT_TYPE, XFS_TYPE, BTRFS_TYPE, F2FS_TYPE)


cdef class Share:
    """Made in each process that carries out requests. `settings` is a `ShareSettings`.

    `mount_fd` is -1 where inodes are numbers: nothing of the host's is used then.
    """

    def __init__(self, StateSegment state, GuestMemory memory, ShareMemory shared, int mount_fd, int put_fd, settings):
        self.state = state
        self.memory = memory
        self.shared = shared
        self.header = shared.header
        self.requests = folder_requests(self.header)
        self.mount_fd = mount_fd
        self.put_fd = put_fd
        self.inodes = OpenInodes(mount_fd, settings.open_limit)
        self.entry_valid_s = settings.entry_valid_s
        self.attr_valid_s = settings.attr_valid_s
        self.open_flags = settings.open_flags
        self.init_flags = settings.init_flags
        self.init_flags2 = settings.init_flags2
        self.is_read_only = settings.is_read_only
        self.has_xattr = settings.has_xattr
        self.allows_direct = settings.allows_direct
        self.host_uids, self.guest_uids = IdMap(settings.host_uids), IdMap(settings.guest_uids)
        self.host_gids, self.guest_gids = IdMap(settings.host_gids), IdMap(settings.guest_gids)
        self.window_bytes = settings.window_bytes
        self.is_stateless = settings.is_stateless
        self.changes_user = mount_fd >= 0 and has_user_right()
        self.own_uid = self.as_uid = os.geteuid()
        self.own_gid = self.as_gid = os.getegid()
        self.has_lasting_numbers = mount_fd >= 0 and _has_lasting_numbers(mount_fd)
        self.forgotten_head = self.header.forgotten_tail
        if mount_fd >= 0:
            umask(0)   # the guest has its own
        if self.buffer == NULL:
            raise MemoryError

    def __cinit__(self, *_args):
        self.buffer = <uint8_t *>malloc(BUFFER_BYTES)

    def __dealloc__(self):
        free(self.buffer)

    def close(self):
        """Close what is open."""
        self.inodes.close()

    # Inodes

    cdef int fd_of(self, const FolderRequest *request, uint32_t access) noexcept nogil:
        """A descriptor of the request's inode, which stays the cache's; or a negative errno."""
        return self.inodes.fd_of(request.header.nodeid, &request.node, access)

    cdef int fds_of(self, const FolderRequest *request, uint32_t access, uint32_t other_access, int *fd,
                    int *other_fd) noexcept nogil:
        """The same of both inodes that a request names: 0 or a negative errno."""
        cdef int attempt, again
        for attempt in range(2):
            fd[0] = self.fd_of(request, access)
            if fd[0] < 0:
                return fd[0]
            other_fd[0] = self.inodes.fd_of(request.other_id, &request.other, other_access)
            if other_fd[0] < 0:
                return other_fd[0]
            again = self.fd_of(request, access)
            if again == fd[0]:   # the second has not put out the first
                return 0
        return -EMFILE

    cdef int look_up(self, int folder_fd, const char *name, FoundInode *found, fuse_entry_out *entry,
                     bint is_kept) noexcept nogil:
        """What a name in a folder stands for; 0 or a negative errno. `is_kept`: it stays open for the next request."""
        cdef statx status
        cdef OpenInode *known
        cdef int fd, error = read_name_statx(folder_fd, name, &status)
        if error:
            return error
        known = self.known_of(&status)
        if known != NULL:
            found.node_id = known.node_id
            found.handle = known.handle
            self.fill_entry(&status, found, entry)
            return 0
        fd = open_name(folder_fd, name, O_PATH, 0)
        if fd < 0:
            return fd
        error = self.describe(fd, found, entry, &status)
        if error == 0:
            known = self.inodes.find(found.node_id, ACCESS_PATH)
            if known == NULL and is_kept:
                known = self.inodes.keep(found.node_id, ACCESS_PATH, fd)
                fd = -1
            if known != NULL:
                self.inodes.note_number(known, &found.handle, status.stx_ino, device_of(&status))
        if fd >= 0:
            close(fd)
        return error

    cdef OpenInode *known_of(self, const statx *status) noexcept nogil:
        """What is open of that, where a name was found to stand for it; NULL. Another mount begins with its root."""
        if not self.has_lasting_numbers or not status.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT \
                or status.stx_attributes & STATX_ATTR_MOUNT_ROOT:
            return NULL
        return self.inodes.find_number(status.stx_ino, device_of(status))

    cdef int describe(self, int fd, FoundInode *found, fuse_entry_out *entry, statx *status) noexcept nogil:
        """What is open, as the guest is to know it, and its status."""
        cdef int error = read_statx(fd, status)
        if error:
            return error
        error = read_file_handle(fd, &found.handle)
        if error:
            return -EIO if error == -EOVERFLOW else error
        found.handle.mode = status.stx_mode & S_IFMT
        found.node_id = FUSE_ROOT_ID if is_same_handle(&found.handle, &self.header.root) else node_id_of(&found.handle)
        self.fill_entry(status, found, entry)
        return 0

    cdef void fill_entry(self, const statx *status, const FoundInode *found, fuse_entry_out *entry) noexcept nogil:
        memset(entry, 0, sizeof(fuse_entry_out))
        entry.nodeid = found.node_id
        entry.entry_valid = self.entry_valid_s
        entry.attr_valid = self.attr_valid_s
        self.fill_attr(status, &entry.attr)

    cdef void fill_attr(self, const statx *found, fuse_attr *attr) noexcept nogil:
        attr.ino = found.stx_ino
        attr.size = found.stx_size
        attr.blocks = found.stx_blocks
        attr.atime = <uint64_t>found.stx_atime.tv_sec
        attr.mtime = <uint64_t>found.stx_mtime.tv_sec
        attr.ctime = <uint64_t>found.stx_ctime.tv_sec
        attr.atimensec = found.stx_atime.tv_nsec
        attr.mtimensec = found.stx_mtime.tv_nsec
        attr.ctimensec = found.stx_ctime.tv_nsec
        attr.mode = found.stx_mode
        attr.nlink = found.stx_nlink
        attr.uid = <uint32_t>self.guest_uids.translate(found.stx_uid)
        attr.gid = <uint32_t>self.guest_gids.translate(found.stx_gid)
        attr.rdev = <uint32_t>makedev(found.stx_rdev_major, found.stx_rdev_minor)
        attr.blksize = found.stx_blksize
        attr.flags = 0
        if self.window_bytes and (found.stx_mode & S_IFMT) == S_IFREG and found.stx_size and found.stx_size % CHUNK_BYTES == 0:
            attr.flags = FUSE_ATTR_DAX   # front ends map nothing beyond a file's end

    cdef int become(self, const FolderRequest *request) noexcept nogil:
        """What is made from now on belongs to who asks for it; 0 or -EPERM: nothing may."""
        cdef int64_t uid = self.host_uids.translate(request.header.uid), gid = self.host_gids.translate(request.header.gid)
        if uid < 0 or gid < 0:
            return -EPERM
        if self.changes_user and gid != self.as_gid:
            setfsgid(<uint32_t>gid)
            self.as_gid = <uint32_t>gid
        if self.changes_user and uid != self.as_uid:   # last, as who is not root may not change the other
            setfsuid(<uint32_t>uid)
            self.as_uid = <uint32_t>uid
        return 0

    cdef void be_itself(self) noexcept nogil:
        """No more."""
        if self.as_uid != self.own_uid:
            setfsuid(self.own_uid)
            self.as_uid = self.own_uid
        if self.as_gid != self.own_gid:
            setfsgid(self.own_gid)
            self.as_gid = self.own_gid

    cdef void use_mask(self, uint32_t mask) noexcept nogil:
        """Take these off the modes of what is made."""
        if mask != self.mask:
            umask(mask)
            self.mask = mask

    cdef void drop_forgotten(self) noexcept nogil:
        """Close what the guest has forgotten since the last call."""
        cdef uint64_t tail = load_acquire_64(&self.header.forgotten_tail)   # pairs with InodeTable's release
        if tail == self.forgotten_head:
            return
        if tail - self.forgotten_head >= <uint64_t>FORGOTTEN_LIMIT:
            self.inodes.clear()
            self.forgotten_head = tail
        while self.forgotten_head != tail:
            self.inodes.forget(self.header.forgotten[self.forgotten_head % FORGOTTEN_LIMIT], 0)
            self.forgotten_head += 1

    # Replies

    cdef int give(self, RequestSlot *slot, const FolderRequest *request, const void *payload,
                  uint32_t size_bytes) noexcept nogil:
        """Answer with this; 0, or -EINVAL: there is no room for it."""
        if size_bytes > request.reply_bytes or not request.can_reply:
            return -EINVAL
        self.put(slot, sizeof(fuse_out_header), payload, size_bytes)
        return self.give_read(slot, request, size_bytes)

    cdef int give_read(self, RequestSlot *slot, const FolderRequest *request, uint32_t size_bytes) noexcept nogil:
        """Answer with what stands behind the header's place already."""
        cdef fuse_out_header header
        if not request.can_reply:
            return -EINVAL
        header.len = <uint32_t>sizeof(header) + size_bytes
        header.error = 0
        header.unique = request.header.unique
        self.put(slot, 0, &header, sizeof(header))
        slot.used_length_bytes = header.len
        return 0

    cdef void put(self, RequestSlot *slot, uint64_t offset_bytes, const void *data, uint64_t size_bytes) noexcept nogil:
        """Write to what the guest has for the reply, which is long enough."""
        cdef Range *piece = self.state.slot_ranges(<uint32_t>(slot - self.state.slots)) + slot.readable_count
        cdef uint64_t part_bytes
        cdef const uint8_t *source = <const uint8_t *>data
        while size_bytes:
            if offset_bytes >= piece.length_bytes:
                offset_bytes -= piece.length_bytes
            else:
                part_bytes = min(size_bytes, piece.length_bytes - offset_bytes)
                memcpy(self.memory.pointer(piece) + offset_bytes, source, part_bytes)
                source += part_bytes
                size_bytes -= part_bytes
                offset_bytes = 0
            piece += 1

    cdef int fill_vectors(self, RequestSlot *slot, uint32_t first, uint32_t count, uint64_t skipped_bytes,
                          uint64_t size_bytes) noexcept nogil:
        """So many bytes of the slot's ranges, as this process has them mapped; how many vectors, at most VECTOR_LIMIT."""
        cdef Range *piece = self.state.slot_ranges(<uint32_t>(slot - self.state.slots)) + first
        cdef int filled = 0
        cdef uint64_t part_bytes
        while count and size_bytes and filled < VECTOR_LIMIT:
            if skipped_bytes >= piece.length_bytes:
                skipped_bytes -= piece.length_bytes
            else:
                part_bytes = min(size_bytes, piece.length_bytes - skipped_bytes)
                self.vectors[filled].iov_base = self.memory.pointer(piece) + skipped_bytes
                self.vectors[filled].iov_len = part_bytes
                filled += 1
                size_bytes -= part_bytes
                skipped_bytes = 0
            piece += 1
            count -= 1
        return filled

    cdef uint64_t gather(self, RequestSlot *slot, uint8_t *target, uint64_t room_bytes) noexcept nogil:
        """Copy the request's data together; how many bytes it is."""
        cdef Range *piece = self.state.slot_ranges(<uint32_t>(slot - self.state.slots)) + slot.first_range
        cdef uint64_t done = 0, part_bytes
        cdef uint32_t index
        for index in range(slot.range_count):
            part_bytes = min(<uint64_t>piece[index].length_bytes, room_bytes - done)
            memcpy(target + done, self.memory.pointer(piece + index), part_bytes)
            done += part_bytes
        return done
