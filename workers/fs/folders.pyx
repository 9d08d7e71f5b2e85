# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Reading folders: READDIR and READDIRPLUS, from any offset that an entry had.

A folder is read where the last reading of this process ended, or from the offset that is asked for: the host's file
systems give offsets that mean the same in whatever has the folder open.
"""

from libc.errno cimport EINVAL, ENOTDIR
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset, strlen
from posix.types cimport off_t

from ringblk.shm.platform.folder_calls cimport S_IFDIR, linux_dirent64, lseek, outcome, read_entries
from ringblk.workers.fs.open_inodes cimport ACCESS_READ, OpenInode
from ringblk.workers.fs.request cimport FOUND_LIMIT, FoundInode
from ringblk.workers.fs.share cimport BUFFER_BYTES
from ringblk.workers.fs.wire cimport fuse_dirent, fuse_entry_out

cdef enum:
    SEEK_SET = 0
    ENTRIES_BYTES = 1 << 15           # of the host's entries, read at once into the buffer's first part
    REPLY_BYTES = BUFFER_BYTES - ENTRIES_BYTES
    LEAST_ENTRIES_BYTES = 4096


cdef bint is_dot(const char *name) noexcept nogil:
    return name[0] == c'.' and (name[1] == 0 or (name[1] == c'.' and name[2] == 0))


cdef uint32_t put_entry(Share share, FolderRequest *request, int folder_fd, const linux_dirent64 *entry, uint8_t *place,
                        uint32_t room_bytes, bint is_plus) noexcept nogil:
    """Write an entry as the guest is to read it; its size, or 0: there is no room."""
    cdef uint32_t name_bytes = <uint32_t>strlen(<const char *>entry.d_name)
    cdef uint32_t head_bytes = sizeof(fuse_entry_out) if is_plus else 0
    cdef uint32_t whole_bytes = (head_bytes + <uint32_t>sizeof(fuse_dirent) + name_bytes + 7) & ~<uint32_t>7
    cdef fuse_dirent *dirent = <fuse_dirent *>(place + head_bytes)
    cdef FoundInode *found = <FoundInode *>request.text + request.found_count
    if whole_bytes > room_bytes or (is_plus and request.found_count == FOUND_LIMIT):
        return 0
    memset(place, 0, whole_bytes)
    dirent.ino = entry.d_ino
    dirent.off = <uint64_t>entry.d_off
    dirent.namelen = name_bytes
    dirent.type = entry.d_type
    memcpy(place + head_bytes + sizeof(fuse_dirent), entry.d_name, name_bytes)
    if is_plus and not is_dot(<const char *>entry.d_name):
        if share.look_up(folder_fd, <const char *>entry.d_name, found, <fuse_entry_out *>place, False) == 0:
            request.found_count += 1
        else:
            memset(place, 0, head_bytes)   # no more than its name is known
    return whole_bytes


cdef int begin_reading(OpenInode *folder, int64_t offset_bytes) noexcept nogil:
    if folder.position == offset_bytes:
        return 0
    folder.position = -1
    if lseek(folder.fd, <off_t>offset_bytes, SEEK_SET) < 0:
        return <int>outcome(-1)
    folder.position = offset_bytes
    return 0


cdef int read_folder(Share share, RequestSlot *slot, FolderRequest *request, bint is_plus) noexcept nogil:
    cdef OpenInode *folder = NULL
    cdef linux_dirent64 *entry
    cdef uint8_t *reply = share.buffer + ENTRIES_BYTES
    cdef uint32_t room_bytes = <uint32_t>min(slot.length_bytes, <uint64_t>REPLY_BYTES), done = 0, entry_bytes = 1
    cdef int64_t read_bytes, place, position = <int64_t>slot.offset_bytes
    cdef int fd, error
    if request.node.mode != <uint32_t>S_IFDIR:
        return -ENOTDIR
    error = share.inodes.open(request.header.nodeid, &request.node, ACCESS_READ, &folder)
    error = error if error else begin_reading(folder, position)
    if error:
        return error
    fd = folder.fd
    request.found_count = 0
    while entry_bytes:
        read_bytes = read_entries(fd, share.buffer, min(max(room_bytes - done, <uint32_t>LEAST_ENTRIES_BYTES),
                                                        <uint32_t>ENTRIES_BYTES))
        if read_bytes <= 0:
            folder.position = -1
            if read_bytes < 0 and done == 0:
                return <int>read_bytes
            break
        place = 0
        while place < read_bytes:
            entry = <linux_dirent64 *>(share.buffer + place)
            entry_bytes = put_entry(share, request, fd, entry, reply + done, room_bytes - done, is_plus)
            if entry_bytes == 0:
                break
            done += entry_bytes
            position = entry.d_off
            place += entry.d_reclen
        folder.position = position if place >= read_bytes else -1
    if done == 0 and entry_bytes == 0:
        return -EINVAL   # not even one fits
    return share.give(slot, request, reply, done)


cdef int do_readdir(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    return read_folder(share, slot, request, False)


cdef int do_readdirplus(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    return read_folder(share, slot, request, True)
