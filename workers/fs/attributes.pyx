# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests about what an inode is: its attributes, extended ones, and the file system that it is on."""

from libc.errno cimport E2BIG, EACCES, EEXIST, ENODATA, ENOSYS, EOPNOTSUPP, EPERM, ERANGE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.platform.folder_calls cimport (
    S_IFDIR, S_IFMT, S_IFREG, UTIME_NOW, UTIME_OMIT, change_mode, change_owner, change_times, fstatfs, ftruncate,
    get_attribute, keep_set_id_right, list_attributes, outcome, read_statx, remove_attribute, set_attribute, statfs,
    statx, timespec,
)
from ringblk.workers.fs.open_inodes cimport ACCESS_PATH, ACCESS_READ, ACCESS_WRITE
from ringblk.workers.fs.protocol cimport (
    FATTR_ATIME, FATTR_ATIME_NOW, FATTR_GID, FATTR_KILL_SUIDGID, FATTR_MODE, FATTR_MTIME, FATTR_MTIME_NOW, FATTR_SIZE,
    FATTR_UID, FUSE_SETXATTR_ACL_KILL_SGID,
)
from ringblk.workers.fs.wire cimport (
    fuse_access_in, fuse_attr_out, fuse_getxattr_in, fuse_getxattr_out, fuse_setattr_in, fuse_setxattr_in,
    fuse_kstatfs, fuse_statx_out, fuse_sx_time,
)

cdef enum:
    XATTR_CREATE = 1
    VALUE_LIMIT_BYTES = 1 << 16    # XATTR_SIZE_MAX and XATTR_LIST_MAX


cdef int give_attr(Share share, RequestSlot *slot, FolderRequest *request, int fd) noexcept nogil:
    cdef fuse_attr_out reply
    cdef statx found
    cdef int error = read_statx(fd, &found)
    if error:
        return error
    memset(&reply, 0, sizeof(reply))
    reply.attr_valid = share.attr_valid_s
    share.fill_attr(&found, &reply.attr)
    return share.give(slot, request, &reply, sizeof(reply))


cdef int do_getattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef int fd = share.fd_of(request, ACCESS_PATH)
    return fd if fd < 0 else give_attr(share, slot, request, fd)


cdef int truncate_to(Share share, FolderRequest *request, uint64_t size_bytes, bint takes_set_id) noexcept nogil:
    cdef int error, fd = share.fd_of(request, ACCESS_WRITE)
    if fd < 0:
        return fd
    if takes_set_id:
        keep_set_id_right(False)
    error = <int>outcome(ftruncate(fd, <int64_t>size_bytes))
    if takes_set_id:
        keep_set_id_right(True)
    return error


cdef void choose_time(timespec *time, bint is_set, bint is_now, uint64_t seconds, uint32_t nanoseconds) noexcept nogil:
    time.tv_sec = <int64_t>seconds
    time.tv_nsec = UTIME_NOW if is_now else nanoseconds if is_set else UTIME_OMIT


cdef int give_to(Share share, FolderRequest *request, uint32_t valid) noexcept nogil:
    """Give an inode to another user, group or both."""
    cdef const fuse_setattr_in *argument = <const fuse_setattr_in *>request.argument
    cdef int64_t uid = share.host_uids.translate(argument.uid) if valid & FATTR_UID else 0xFFFFFFFF
    cdef int64_t gid = share.host_gids.translate(argument.gid) if valid & FATTR_GID else 0xFFFFFFFF
    cdef int fd = share.fd_of(request, ACCESS_PATH)
    if uid < 0 or gid < 0:
        return -EPERM
    return fd if fd < 0 else change_owner(fd, <uint32_t>uid, <uint32_t>gid)


cdef int do_setattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef const fuse_setattr_in *argument = <const fuse_setattr_in *>request.argument
    cdef uint32_t valid = argument.valid
    cdef timespec times[2]
    cdef bint can_open = request.node.mode == <uint32_t>S_IFREG or request.node.mode == <uint32_t>S_IFDIR
    cdef int error = 0, fd
    if valid & FATTR_MODE:
        fd = share.fd_of(request, ACCESS_READ if can_open else ACCESS_PATH)
        error = fd if fd < 0 else change_mode(fd, argument.mode & 0o7777, can_open)
    if error == 0 and valid & (FATTR_UID | FATTR_GID):
        error = give_to(share, request, valid)
    if error == 0 and valid & FATTR_SIZE:
        error = truncate_to(share, request, argument.size, valid & FATTR_KILL_SUIDGID)
    if error == 0 and valid & (FATTR_ATIME | FATTR_MTIME):
        choose_time(&times[0], valid & FATTR_ATIME, valid & FATTR_ATIME_NOW, argument.atime, argument.atimensec)
        choose_time(&times[1], valid & FATTR_MTIME, valid & FATTR_MTIME_NOW, argument.mtime, argument.mtimensec)
        fd = share.fd_of(request, ACCESS_PATH)
        error = fd if fd < 0 else change_times(fd, times)
    if error:
        return error
    return do_getattr(share, slot, request)


cdef inline fuse_sx_time time_of(int64_t seconds, uint32_t nanoseconds) noexcept nogil:
    cdef fuse_sx_time time
    time.tv_sec = seconds
    time.tv_nsec = nanoseconds
    time.__reserved = 0
    return time


cdef int do_statx(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef fuse_statx_out reply
    cdef statx found
    cdef int error, fd = share.fd_of(request, ACCESS_PATH)
    if fd < 0:
        return fd
    error = read_statx(fd, &found)
    if error:
        return error
    memset(&reply, 0, sizeof(reply))
    reply.attr_valid = share.attr_valid_s
    reply.stat.mask = found.stx_mask
    reply.stat.blksize = found.stx_blksize
    reply.stat.attributes = found.stx_attributes
    reply.stat.attributes_mask = found.stx_attributes_mask
    reply.stat.nlink = found.stx_nlink
    reply.stat.uid = <uint32_t>share.guest_uids.translate(found.stx_uid)
    reply.stat.gid = <uint32_t>share.guest_gids.translate(found.stx_gid)
    reply.stat.mode = found.stx_mode
    reply.stat.ino = found.stx_ino
    reply.stat.size = found.stx_size
    reply.stat.blocks = found.stx_blocks
    reply.stat.atime = time_of(found.stx_atime.tv_sec, found.stx_atime.tv_nsec)
    reply.stat.btime = time_of(found.stx_btime.tv_sec, found.stx_btime.tv_nsec)
    reply.stat.ctime = time_of(found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec)
    reply.stat.mtime = time_of(found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec)
    reply.stat.rdev_major = found.stx_rdev_major
    reply.stat.rdev_minor = found.stx_rdev_minor
    reply.stat.dev_major = found.stx_dev_major
    reply.stat.dev_minor = found.stx_dev_minor
    return share.give(slot, request, &reply, sizeof(reply))


cdef int do_statfs(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef fuse_kstatfs reply
    cdef statfs found
    cdef int error, fd = share.fd_of(request, ACCESS_PATH)
    if fd < 0:
        return fd
    error = <int>outcome(fstatfs(fd, &found))
    if error:
        return error
    memset(&reply, 0, sizeof(reply))
    reply.blocks = found.f_blocks
    reply.bfree = found.f_bfree
    reply.bavail = found.f_bavail
    reply.files = found.f_files
    reply.ffree = found.f_ffree
    reply.bsize = <uint32_t>found.f_bsize
    reply.namelen = <uint32_t>found.f_namelen
    reply.frsize = <uint32_t>found.f_frsize
    return share.give(slot, request, &reply, sizeof(reply))


cdef int do_access(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    """By the mode bits alone: a guest that checks permissions itself, as Linux does, never asks."""
    cdef uint32_t wanted = (<const fuse_access_in *>request.argument).mask & 7, granted
    cdef statx found
    cdef int error, fd = share.fd_of(request, ACCESS_PATH)
    if fd < 0:
        return fd
    error = read_statx(fd, &found)
    if error:
        return error
    granted = found.stx_mode & 7
    if share.host_uids.translate(request.header.uid) == found.stx_uid:
        granted = (found.stx_mode >> 6) & 7
    elif share.host_gids.translate(request.header.gid) == found.stx_gid:
        granted = (found.stx_mode >> 3) & 7
    if request.header.uid == 0 and (found.stx_mode & 0o111 or (found.stx_mode & S_IFMT) == S_IFDIR):
        granted = 7
    elif request.header.uid == 0:
        granted = 6
    return -EACCES if wanted & ~granted else share.give_read(slot, request, 0)


cdef int attribute_fd(Share share, const FolderRequest *request, bint *is_open) noexcept nogil:
    """A descriptor for extended attributes: only files and folders are opened for them."""
    is_open[0] = request.node.mode == <uint32_t>S_IFREG or request.node.mode == <uint32_t>S_IFDIR
    if not share.has_xattr:
        return -ENOSYS   # the guest asks no more
    return share.fd_of(request, ACCESS_READ if is_open[0] else ACCESS_PATH)


cdef inline int attribute_outcome(int64_t result) noexcept nogil:
    """Where the kernel has no such call for what is not opened, there are none."""
    return -EOPNOTSUPP if result == -ENOSYS else <int>result


cdef int give_list(Share share, RequestSlot *slot, FolderRequest *request, int size_bytes, uint32_t room_bytes) noexcept nogil:
    """Answer with so many bytes of the buffer, or with how many there are where none are wanted."""
    cdef fuse_getxattr_out reply
    if size_bytes < 0:
        return size_bytes
    if room_bytes == 0:
        reply.size = <uint32_t>size_bytes
        reply.padding = 0
        return share.give(slot, request, &reply, sizeof(reply))
    if <uint32_t>size_bytes > room_bytes or <uint32_t>size_bytes > request.reply_bytes:
        return -ERANGE
    return share.give(slot, request, share.buffer, <uint32_t>size_bytes)


cdef int do_getxattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef bint is_open = False
    cdef int fd = attribute_fd(share, request, &is_open)
    if fd < 0:
        return fd
    return give_list(share, slot, request,
                     attribute_outcome(get_attribute(fd, <const char *>request.text, share.buffer, VALUE_LIMIT_BYTES, is_open)),
                     (<const fuse_getxattr_in *>request.argument).size)


cdef int do_listxattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef bint is_open = False
    cdef int fd = attribute_fd(share, request, &is_open)
    if fd < 0:
        return fd
    return give_list(share, slot, request,
                     attribute_outcome(list_attributes(fd, <char *>share.buffer, VALUE_LIMIT_BYTES, is_open)),
                     (<const fuse_getxattr_in *>request.argument).size)


cdef int do_setxattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef const fuse_setxattr_in *argument = <const fuse_setxattr_in *>request.argument
    cdef bint is_open = False, takes_set_id = argument.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID
    cdef const char *name = <const char *>request.text
    cdef int error, fd = attribute_fd(share, request, &is_open)
    if fd < 0:
        return fd
    if argument.size > VALUE_LIMIT_BYTES:
        return -E2BIG
    share.gather(slot, share.buffer, argument.size)
    if takes_set_id:
        keep_set_id_right(False)
    error = attribute_outcome(set_attribute(fd, name, share.buffer, argument.size, argument.flags, is_open))
    if takes_set_id:
        keep_set_id_right(True)
    crash_point("folder: attribute set")
    if error == -EEXIST and share.was_begun and argument.flags & XATTR_CREATE:
        error = attribute_outcome(set_attribute(fd, name, share.buffer, argument.size, 0, is_open))
    return error if error else share.give_read(slot, request, 0)


cdef int do_removexattr(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef bint is_open = False
    cdef int error, fd = attribute_fd(share, request, &is_open)
    if fd < 0:
        return fd
    error = attribute_outcome(remove_attribute(fd, <const char *>request.text, is_open))
    crash_point("folder: attribute removed")
    if error == -ENODATA and share.was_begun:
        error = 0
    return error if error else share.give_read(slot, request, 0)
