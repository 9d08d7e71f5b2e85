# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests about what is in files. All of them name the inode, and none needs what an OPEN has answered.

A write may be done twice: it has its place. One that appends has none but where the guest believed the end to be, which
is where it goes if it was begun before.
"""

from libc.errno cimport EINVAL, EISDIR, ENOSPC, ENOSYS
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.types cimport off_t

from ringblk.shm.platform.folder_calls cimport (
    RWF_APPEND, S_IFDIR, change_space, copy_file_range, fdatasync, fsync, keep_set_id_right, lseek, outcome,
    read_parts, syncfs, write_parts,
)
from ringblk.workers.fs.open_inodes cimport ACCESS_DIRECT, ACCESS_READ, ACCESS_WRITE
from ringblk.workers.fs.protocol cimport (
    FUSE_FSYNC_FDATASYNC, FUSE_NO_OPENDIR_SUPPORT, FUSE_NO_OPEN_SUPPORT, FUSE_OPENDIR, FUSE_WRITEBACK_CACHE, FUSE_WRITE_KILL_SUIDGID,
)
from ringblk.workers.fs.share cimport VECTOR_LIMIT
from ringblk.workers.fs.wire cimport (
    fuse_copy_file_range_in, fuse_fallocate_in, fuse_fsync_in, fuse_lseek_in, fuse_lseek_out, fuse_open_out,
    fuse_out_header, fuse_read_in, fuse_write_in, fuse_write_out,
)

cdef extern from "fcntl.h" nogil:
    int O_APPEND, O_DIRECT

cdef enum:
    SEEK_DATA_WHENCE = 3
    SEEK_HOLE_WHENCE = 4
    FALLOCATE_MODES = 0x01 | 0x02 | 0x10     # KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE


cdef int do_open(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    """Nothing is opened: what is needed is opened by who needs it. A guest that can do without asks no more."""
    cdef fuse_open_out reply
    cdef bint is_folder = request.header.opcode == FUSE_OPENDIR
    if share.is_stateless and share.header.flags & (FUSE_NO_OPENDIR_SUPPORT if is_folder else FUSE_NO_OPEN_SUPPORT):
        return -ENOSYS
    memset(&reply, 0, sizeof(reply))
    reply.open_flags = 0 if is_folder else share.open_flags
    return share.give(slot, request, &reply, sizeof(reply))


cdef int do_flush(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    """Somebody has closed the file: the host may want to execute what was written, so it is not kept open for that."""
    share.inodes.forget(request.header.nodeid, ACCESS_WRITE)
    return share.give_read(slot, request, 0)


cdef int do_read(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef uint32_t flags = (<const fuse_read_in *>request.argument).flags
    cdef int fd = share.fd_of(request, ACCESS_DIRECT if share.allows_direct and flags & <uint32_t>O_DIRECT else ACCESS_READ)
    cdef int count
    cdef uint64_t done = 0
    cdef int64_t part
    if fd < 0:
        return -EISDIR if request.node.mode == <uint32_t>S_IFDIR else fd
    while done < slot.length_bytes:
        count = share.fill_vectors(slot, slot.readable_count, slot.writable_count, sizeof(fuse_out_header) + done,
                                   slot.length_bytes - done)
        part = read_parts(fd, share.vectors, count, <int64_t>(slot.offset_bytes + done))
        if part < 0 and done == 0:
            return <int>part
        if part <= 0:
            break
        done += <uint64_t>part
        if count < VECTOR_LIMIT and done < slot.length_bytes:   # the file's end
            break
    return share.give_read(slot, request, <uint32_t>done)


cdef int write_all(Share share, RequestSlot *slot, int fd, int flags) noexcept nogil:
    cdef uint64_t done = 0
    cdef int64_t part
    cdef int count
    while done < slot.length_bytes:
        count = share.fill_vectors(slot, slot.first_range, slot.range_count, done, slot.length_bytes - done)
        part = write_parts(fd, share.vectors, count, <int64_t>(slot.offset_bytes + done), flags)
        if part < 0:
            return <int>part if done == 0 else <int>done
        if part == 0:
            return -ENOSPC
        done += <uint64_t>part
    return <int>done


cdef int do_write(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef const fuse_write_in *argument = <const fuse_write_in *>request.argument
    cdef fuse_write_out reply
    cdef bint is_direct = share.allows_direct and argument.flags & <uint32_t>O_DIRECT
    cdef int flags = 0, fd = share.fd_of(request, ACCESS_DIRECT if is_direct else ACCESS_WRITE), done
    cdef bint takes_set_id = argument.write_flags & FUSE_WRITE_KILL_SUIDGID
    if fd < 0:
        return fd
    if slot.length_bytes > <uint64_t>0x7FFFF000:
        return -EINVAL
    if argument.flags & O_APPEND and not share.was_begun and not share.header.flags & FUSE_WRITEBACK_CACHE:
        flags = RWF_APPEND
    if takes_set_id:
        keep_set_id_right(False)
    done = write_all(share, slot, fd, flags)
    if takes_set_id:
        keep_set_id_right(True)
    if done < 0:
        return done
    reply.size = <uint32_t>done
    reply.padding = 0
    return share.give(slot, request, &reply, sizeof(reply))


cdef int do_fsync(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef int error, fd = share.fd_of(request, ACCESS_READ)
    if fd < 0:
        return fd
    if (<const fuse_fsync_in *>request.argument).fsync_flags & FUSE_FSYNC_FDATASYNC:
        error = <int>outcome(fdatasync(fd))
    else:
        error = <int>outcome(fsync(fd))
    return error if error else share.give_read(slot, request, 0)


cdef int do_syncfs(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef int error = <int>outcome(syncfs(share.mount_fd))
    return error if error else share.give_read(slot, request, 0)


cdef int do_fallocate(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef const fuse_fallocate_in *argument = <const fuse_fallocate_in *>request.argument
    cdef int error, fd
    if argument.mode & ~<uint32_t>FALLOCATE_MODES:   # those that move data cannot be done twice, and no guest asks
        return -EINVAL
    fd = share.fd_of(request, ACCESS_WRITE)
    if fd < 0:
        return fd
    error = <int>outcome(change_space(fd, <int>argument.mode, <off_t>argument.offset, <off_t>argument.length))
    return error if error else share.give_read(slot, request, 0)


cdef int do_lseek(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    """Where data or a hole begins."""
    cdef const fuse_lseek_in *argument = <const fuse_lseek_in *>request.argument
    cdef fuse_lseek_out reply
    cdef int64_t found
    cdef int fd
    if argument.whence != SEEK_DATA_WHENCE and argument.whence != SEEK_HOLE_WHENCE:
        return -EINVAL   # the others are of an open file, which the guest has
    fd = share.fd_of(request, ACCESS_READ)
    if fd < 0:
        return fd
    if request.node.mode == <uint32_t>S_IFDIR:
        return -EINVAL
    found = outcome(lseek(fd, <off_t>argument.offset, <int>argument.whence))
    if found < 0:
        return <int>found
    reply.offset = <uint64_t>found
    return share.give(slot, request, &reply, sizeof(reply))


cdef int do_copy(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    """COPY_FILE_RANGE: what is copied twice is the same."""
    cdef const fuse_copy_file_range_in *argument = <const fuse_copy_file_range_in *>request.argument
    cdef off_t place = <off_t>argument.off_in, other_place = <off_t>argument.off_out
    cdef fuse_write_out reply
    cdef int fd, other_fd
    cdef int error = share.fds_of(request, ACCESS_READ, ACCESS_WRITE, &fd, &other_fd)
    cdef int64_t copied
    if error:
        return error
    copied = outcome(copy_file_range(fd, &place, other_fd, &other_place, min(argument.len, <uint64_t>0x7FFFF000),
                                     <unsigned>argument.flags))
    if copied < 0:
        return <int>copied
    reply.size = <uint32_t>copied
    reply.padding = 0
    return share.give(slot, request, &reply, sizeof(reply))
