# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests about names in folders.

Most of them cannot be done twice: a folder that was made is there already the second time. A process may die between
doing such a thing and saying so. So who carries out a request that was begun before (`Share.was_begun`) takes "it is
done already" for an outcome, where what is there bears that out: a name that was made since the request came, a name
that is gone.
"""

from libc.errno cimport EEXIST, ENFILE, ENOENT
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.platform.folder_calls cimport (
    S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, STATX_BTIME, close, keep_set_id_right, linkat, makedev, mkdirat, mknodat, open_name,
    outcome, read_name_statx, readlinkat, rename_name, statx, symlinkat, unlinkat,
)
from ringblk.workers.fs.nameless cimport hold_inode, hold_name
from ringblk.workers.fs.open_inodes cimport ACCESS_PATH, ACCESS_READ, ACCESS_WRITE
from ringblk.workers.fs.protocol cimport FUSE_DONT_MASK, FUSE_OPEN_KILL_SUIDGID
from ringblk.workers.fs.request cimport FoundInode
from ringblk.workers.fs.share cimport device_of
from ringblk.workers.fs.wire cimport (
    fuse_create_in, fuse_entry_out, fuse_mkdir_in, fuse_mknod_in, fuse_open_out, fuse_rename2_in,
)

cdef extern from "fcntl.h" nogil:
    int AT_EMPTY_PATH, AT_REMOVEDIR, O_ACCMODE, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_DIRECT, O_APPEND, O_NOFOLLOW
    int O_NONBLOCK, O_DSYNC, O_SYNC

cdef enum:
    TARGET_BYTES = 4096
    RENAME_NOREPLACE = 1
    RENAME_EXCHANGE = 2


cdef inline const char *name_of(const FolderRequest *request) noexcept nogil:
    return <const char *>request.text


cdef inline const char *other_name_of(const FolderRequest *request) noexcept nogil:
    return <const char *>request.text + request.other_text


cdef int give_entry(Share share, RequestSlot *slot, FolderRequest *request, int folder_fd) noexcept nogil:
    """Answer with what the request's name stands for."""
    cdef fuse_entry_out entry
    cdef int error = share.look_up(folder_fd, name_of(request), &request.one_found, &entry, True)
    if error:
        return error
    request.found_count = 1
    return share.give(slot, request, &entry, sizeof(entry))


cdef bint is_made_since(Share share, FolderRequest *request, int folder_fd, const char *name, uint32_t kind) noexcept nogil:
    """Whether a name that is there was made after this request had come, and so by who has begun it."""
    cdef statx found
    if not share.was_begun or read_name_statx(folder_fd, name, &found) < 0 or (found.stx_mode & S_IFMT) != kind:
        return False
    if not found.stx_mask & STATX_BTIME:
        found.stx_btime = found.stx_ctime
    return found.stx_btime.tv_sec > request.begun_s \
        or (found.stx_btime.tv_sec == request.begun_s and <int64_t>found.stx_btime.tv_nsec >= request.begun_ns)


cdef int settle_made(Share share, FolderRequest *request, int folder_fd, uint32_t kind, int error) noexcept nogil:
    """What became of making something: EEXIST is none where it was this request that has made it."""
    crash_point("folder: name made")
    if error == -EEXIST and is_made_since(share, request, folder_fd, name_of(request), kind):
        return 0
    return error


cdef int begin_making(Share share, const FolderRequest *request, uint32_t mask) noexcept nogil:
    cdef int error = share.become(request)
    if error == 0:
        share.use_mask(mask & 0o777 if share.header.flags & FUSE_DONT_MASK else 0)
    return error


cdef int do_lookup(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef int folder_fd = share.fd_of(request, ACCESS_PATH)
    return folder_fd if folder_fd < 0 else give_entry(share, slot, request, folder_fd)


cdef int do_readlink(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef int size_bytes, fd = share.fd_of(request, ACCESS_PATH)
    if fd < 0:
        return fd
    size_bytes = <int>outcome(readlinkat(fd, "", <char *>share.buffer, TARGET_BYTES))
    return size_bytes if size_bytes < 0 else share.give(slot, request, share.buffer, <uint32_t>size_bytes)


cdef int do_symlink(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef int error, folder_fd = share.fd_of(request, ACCESS_PATH)
    if folder_fd < 0:
        return folder_fd
    error = share.become(request)
    if error:
        return error
    error = <int>outcome(symlinkat(other_name_of(request), folder_fd, name_of(request)))
    share.be_itself()
    error = settle_made(share, request, folder_fd, S_IFLNK, error)
    return error if error else give_entry(share, slot, request, folder_fd)


cdef int do_mknod(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef const fuse_mknod_in *argument = <const fuse_mknod_in *>request.argument
    cdef uint64_t device = makedev((argument.rdev >> 8) & 0xFFF, (argument.rdev & 0xFF) | ((argument.rdev >> 12) & 0xFFF00))
    cdef uint32_t kind = argument.mode & <uint32_t>S_IFMT
    cdef int error, folder_fd = share.fd_of(request, ACCESS_PATH)
    if folder_fd < 0:
        return folder_fd
    error = begin_making(share, request, argument.umask)
    if error:
        return error
    error = <int>outcome(mknodat(folder_fd, name_of(request), argument.mode, device))
    share.be_itself()
    error = settle_made(share, request, folder_fd, kind if kind else <uint32_t>S_IFREG, error)
    return error if error else give_entry(share, slot, request, folder_fd)


cdef int do_mkdir(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef const fuse_mkdir_in *argument = <const fuse_mkdir_in *>request.argument
    cdef int error, folder_fd = share.fd_of(request, ACCESS_PATH)
    if folder_fd < 0:
        return folder_fd
    error = begin_making(share, request, argument.umask)
    if error:
        return error
    error = <int>outcome(mkdirat(folder_fd, name_of(request), argument.mode & 0o7777))
    share.be_itself()
    error = settle_made(share, request, folder_fd, S_IFDIR, error)
    return error if error else give_entry(share, slot, request, folder_fd)


cdef int give_created(Share share, RequestSlot *slot, FolderRequest *request, int fd) noexcept nogil:
    """Answer with a file that is open for writing, and keep it so."""
    cdef CreateOut reply
    cdef statx status
    cdef int error = share.describe(fd, &request.one_found, &reply.entry, &status)
    if error:
        close(fd)
        return error
    request.found_count = 1
    memset(&reply.file, 0, sizeof(reply.file))
    reply.file.open_flags = share.open_flags
    share.inodes.note_number(share.inodes.keep(request.one_found.node_id, ACCESS_WRITE, fd), &request.one_found.handle,
                             status.stx_ino, device_of(&status))
    return share.give(slot, request, &reply, sizeof(reply))


cdef int do_create(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef const fuse_create_in *argument = <const fuse_create_in *>request.argument
    cdef uint64_t flags = O_CREAT | O_RDWR | O_NONBLOCK | (argument.flags & (O_EXCL | O_TRUNC))
    cdef bint takes_set_id = argument.open_flags & FUSE_OPEN_KILL_SUIDGID
    cdef int fd, error, folder_fd = share.fd_of(request, ACCESS_PATH)
    if folder_fd < 0:
        return folder_fd
    error = begin_making(share, request, argument.umask)
    if error:
        return error
    if takes_set_id:
        keep_set_id_right(False)
    fd = open_name(folder_fd, name_of(request), flags, argument.mode & 0o7777)
    if takes_set_id:
        keep_set_id_right(True)
    share.be_itself()
    crash_point("folder: file created")
    if fd == -EEXIST and is_made_since(share, request, folder_fd, name_of(request), S_IFREG):
        fd = open_name(folder_fd, name_of(request), flags & ~<uint64_t>(O_EXCL | O_CREAT), 0)
    return fd if fd < 0 else give_created(share, slot, request, fd)


cdef int do_tmpfile(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    """A file without a name. One that a process had made that has died since is nowhere, so there is no other."""
    cdef const fuse_create_in *argument = <const fuse_create_in *>request.argument
    cdef int fd, error, folder_fd = share.fd_of(request, ACCESS_READ)
    if folder_fd < 0:
        return folder_fd
    error = begin_making(share, request, argument.umask)
    if error:
        return error
    fd = open_name(folder_fd, ".", <uint64_t>(O_TMPFILE | O_RDWR | (argument.flags & O_EXCL)), argument.mode & 0o7777)
    share.be_itself()
    if fd < 0:
        return fd
    error = give_created(share, slot, request, fd)
    if error == 0 and hold_inode(share, request.one_found.node_id, fd):
        request.found_count = 0
        share.inodes.forget(request.one_found.node_id, ACCESS_PATH)
        return -ENFILE   # nothing would keep it
    return error


cdef int remove_name(Share share, RequestSlot *slot, FolderRequest *request, int flags) noexcept nogil:
    cdef int error, folder_fd = share.fd_of(request, ACCESS_PATH)
    if folder_fd < 0:
        return folder_fd
    error = hold_name(share, folder_fd, name_of(request)) if flags == 0 else 0
    if error:
        return error
    error = <int>outcome(unlinkat(folder_fd, name_of(request), flags))
    crash_point("folder: name removed")
    if error == -ENOENT and share.was_begun:   # the guest knew it
        error = 0
    return error if error else share.give_read(slot, request, 0)


cdef int do_unlink(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    return remove_name(share, slot, request, 0)


cdef int do_rmdir(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    return remove_name(share, slot, request, AT_REMOVEDIR)


cdef int rename(Share share, RequestSlot *slot, FolderRequest *request, unsigned int flags) noexcept nogil:
    cdef int folder_fd, other_fd
    cdef statx found
    cdef int error = share.fds_of(request, ACCESS_PATH, ACCESS_PATH, &folder_fd, &other_fd)
    if error:
        return error
    if not flags & (RENAME_NOREPLACE | RENAME_EXCHANGE):   # else nothing is replaced
        error = hold_name(share, other_fd, other_name_of(request))
        if error:
            return error
    error = rename_name(folder_fd, name_of(request), other_fd, other_name_of(request), flags)
    crash_point("folder: renamed")
    if error == -ENOENT and share.was_begun and read_name_statx(other_fd, other_name_of(request), &found) == 0:
        error = 0   # its new name is there, and the old one was when the guest asked
    return error if error else share.give_read(slot, request, 0)


cdef int do_rename(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    return rename(share, slot, request, 0)


cdef int do_rename2(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    return rename(share, slot, request, (<const fuse_rename2_in *>request.argument).flags)


cdef int do_link(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    cdef int folder_fd, fd, error
    cdef FoundInode there
    cdef fuse_entry_out entry
    error = share.fds_of(request, ACCESS_PATH, ACCESS_PATH, &folder_fd, &fd)
    if error:
        return error
    error = <int>outcome(linkat(fd, "", folder_fd, name_of(request), AT_EMPTY_PATH))
    crash_point("folder: linked")
    if error == -EEXIST and share.was_begun \
            and share.look_up(folder_fd, name_of(request), &there, &entry, False) == 0 \
            and there.node_id == request.other_id:
        error = 0
    return error if error else give_entry(share, slot, request, folder_fd)
