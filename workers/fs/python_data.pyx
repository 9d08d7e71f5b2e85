# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests about what inodes are and what is in them, by a class of a user's own."""

from libc.errno cimport EEXIST, EINVAL, ENODATA
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

import os
import time

from ringblk.workers.fs.protocol cimport (
    FATTR_ATIME, FATTR_ATIME_NOW, FATTR_GID, FATTR_MODE, FATTR_MTIME, FATTR_MTIME_NOW, FATTR_SIZE, FATTR_UID,
    FUSE_FSYNC_FDATASYNC,
)
from ringblk.workers.fs.python_share cimport caller_of, checked_count, name_of, number_of, refuse
from ringblk.workers.fs.wire cimport (
    fuse_access_in, fuse_copy_file_range_in, fuse_fallocate_in, fuse_fsync_in, fuse_kstatfs, fuse_lseek_in,
    fuse_lseek_out, fuse_open_in, fuse_open_out, fuse_setattr_in, fuse_setxattr_in, fuse_write_out,
)

from ringblk.workers.fs.file_system import Changes, StatFs

cdef enum:
    NANOSECONDS = 1000000000
    VALUE_LIMIT_BYTES = 1 << 16    # XATTR_SIZE_MAX and XATTR_LIST_MAX
    XATTR_CREATE = 1
    COPY_LIMIT_BYTES = 0x7FFFF000  # as Linux has it


cdef int answer_getattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    return self.give_attributes(slot, request, method(request.header.nodeid))


cdef object time_of(uint32_t valid, uint32_t is_set, uint32_t is_now, uint64_t seconds, uint32_t nanoseconds):
    if valid & is_now:
        return time.time_ns()
    return seconds * NANOSECONDS + nanoseconds if valid & is_set else None


cdef int answer_setattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    cdef const fuse_setattr_in *argument = <const fuse_setattr_in *>request.argument
    cdef uint32_t valid = argument.valid
    changes = Changes(
        mode=argument.mode & 0o7777 if valid & FATTR_MODE else None,
        uid=argument.uid if valid & FATTR_UID else None,
        gid=argument.gid if valid & FATTR_GID else None,
        size=argument.size if valid & FATTR_SIZE else None,
        atime_ns=time_of(valid, FATTR_ATIME, FATTR_ATIME_NOW, argument.atime, argument.atimensec),
        mtime_ns=time_of(valid, FATTR_MTIME, FATTR_MTIME_NOW, argument.mtime, argument.mtimensec),
    )
    return self.give_attributes(slot, request, method(request.header.nodeid, changes))


cdef int answer_statfs(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    cdef fuse_kstatfs reply
    found = method()
    if type(found) is not StatFs:
        refuse(found, "ringblk.StatFs")
    memset(&reply, 0, sizeof(reply))
    reply.blocks = found.blocks
    reply.bfree = found.free_blocks
    reply.bavail = found.available_blocks
    reply.files = found.files
    reply.ffree = found.free_files
    reply.bsize = reply.frsize = found.block_bytes
    reply.namelen = found.name_bytes
    return self.share.give(slot, request, &reply, sizeof(reply))


cdef int answer_open(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    cdef fuse_open_out reply
    result = method(request.header.nodeid, (<const fuse_open_in *>request.argument).flags)
    if result is not None:
        refuse(result, "None: there are no handles")
    memset(&reply, 0, sizeof(reply))
    reply.open_flags = self.share.open_flags
    return self.share.give(slot, request, &reply, sizeof(reply))


cdef int answer_node(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    """FLUSH and RELEASE."""
    return self.give_done(slot, request, method(request.header.nodeid))


cdef int answer_read(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    return self.give_bytes(slot, request, method(request.header.nodeid, slot.offset_bytes, slot.length_bytes),
                           slot.length_bytes)


cdef int give_count(PythonShare self, RequestSlot *slot, FolderRequest *request, int64_t count) except? -1:
    cdef fuse_write_out reply
    reply.size = <uint32_t>count
    reply.padding = 0
    return self.share.give(slot, request, &reply, sizeof(reply))


cdef int answer_write(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    result = method(request.header.nodeid, slot.offset_bytes, self.data_of(slot))
    return give_count(self, slot, request, checked_count(result, slot.length_bytes))


cdef int answer_copy(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    cdef const fuse_copy_file_range_in *argument = <const fuse_copy_file_range_in *>request.argument
    cdef uint64_t size_bytes = min(argument.len, <uint64_t>COPY_LIMIT_BYTES)
    result = method(request.header.nodeid, argument.off_in, request.other_id, argument.off_out, size_bytes)
    return give_count(self, slot, request, checked_count(result, size_bytes))


cdef int answer_fsync(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    is_data = bool((<const fuse_fsync_in *>request.argument).fsync_flags & FUSE_FSYNC_FDATASYNC)
    return self.give_done(slot, request, method(request.header.nodeid, is_data))


cdef int answer_syncfs(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    return self.give_done(slot, request, method())


cdef int answer_access(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    mask = (<const fuse_access_in *>request.argument).mask
    return self.give_done(slot, request, method(request.header.nodeid, mask, caller_of(request)))


cdef int answer_fallocate(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    cdef const fuse_fallocate_in *argument = <const fuse_fallocate_in *>request.argument
    result = method(request.header.nodeid, argument.mode, argument.offset, argument.length)
    return self.give_done(slot, request, result)


cdef int answer_lseek(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    cdef const fuse_lseek_in *argument = <const fuse_lseek_in *>request.argument
    cdef fuse_lseek_out reply
    if argument.whence != <uint32_t>os.SEEK_DATA and argument.whence != <uint32_t>os.SEEK_HOLE:
        return -EINVAL   # the others are of an open file, which the guest has
    result = method(request.header.nodeid, argument.offset, argument.whence)
    reply.offset = <uint64_t>checked_count(result, <uint64_t>0x7FFFFFFFFFFFFFFF)
    return self.share.give(slot, request, &reply, sizeof(reply))


cdef int answer_getxattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    value = method(request.header.nodeid, name_of(request))
    if type(value) is not bytes or len(value) > VALUE_LIMIT_BYTES:
        refuse(value, f"at most {VALUE_LIMIT_BYTES} bytes")
    return self.give_value(slot, request, value)


cdef int answer_listxattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    names = method(request.header.nodeid)
    if isinstance(names, (str, bytes)) or not hasattr(names, "__iter__"):
        refuse(names, "names")
    value = b"".join(os.fsencode(name) + b"\0" for name in names)
    if len(value) > VALUE_LIMIT_BYTES:
        raise ValueError(f"returned names of {len(value)} bytes; Linux takes {VALUE_LIMIT_BYTES}")
    return self.give_value(slot, request, value)


cdef int answer_setxattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    flags = (<const fuse_setxattr_in *>request.argument).flags
    value = self.data_of(slot)
    try:
        return self.give_done(slot, request, method(request.header.nodeid, name_of(request), value, flags))
    except OSError as error:
        if not (self.share.was_begun and flags & XATTR_CREATE and number_of(error) == EEXIST):
            raise
    return self.give_done(slot, request, method(request.header.nodeid, name_of(request), value, 0))


cdef int answer_removexattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    try:
        return self.give_done(slot, request, method(request.header.nodeid, name_of(request)))
    except OSError as error:
        if not self.share.was_begun or number_of(error) != ENODATA:
            raise
    return self.share.give_read(slot, request, 0)
