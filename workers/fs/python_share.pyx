# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A file system of a user's own as one process has it: what all requests on it need.

`file_system.py` says what such a class is. What it returns is looked at here, and becomes a reply.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer, Py_buffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EINVAL, EIO, ERANGE
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

import errno
import inspect
import os
import stat

from ringblk.workers.fs.share cimport fill_number
from ringblk.workers.fs.wire cimport (
    fuse_attr_out, fuse_getxattr_in, fuse_getxattr_out, fuse_out_header,
)

from ringblk.workers.backends.failure_log import FailureLog, errno_of
from ringblk.workers.fs.file_system import Attributes, Caller

cdef enum:
    NANOSECONDS = 1000000000

_ERRNOS = {
    FileNotFoundError: errno.ENOENT, FileExistsError: errno.EEXIST, PermissionError: errno.EACCES,
    NotADirectoryError: errno.ENOTDIR, IsADirectoryError: errno.EISDIR,
}
"""Of exceptions that were raised without a number."""


cdef class PythonShare:
    """`file_system` is one that `python_folder.check_file_system` has found complete."""

    def __init__(self, Share share, file_system):
        self.share = share
        self.file_system = file_system
        self.failures = FailureLog()

    cdef int report(self, str method_name, error) noexcept:
        """What an exception is for the guest: a negative errno. An `OSError` is an answer like others; EIO is logged."""
        cdef int number = EIO
        try:
            number = number_of(error)
            if number == EIO:
                self.failures.log(self.file_system, method_name, type(error).__name__, error)
        except BaseException:
            pass   # a log handler that fails must not hide that the request failed
        return -number

    cdef object look_up(self, uint64_t parent, str name):
        """What a name stands for. Raises what the class raises."""
        return checked_attributes(self.file_system.lookup(parent, name))

    # What a reply is made of.

    cdef int give_done(self, RequestSlot *slot, FolderRequest *request, result) except? -1:
        """Answer that it is done: the method has returned None."""
        if result is not None:
            refuse(result, "None")
        return self.share.give_read(slot, request, 0)

    cdef int give_attributes(self, RequestSlot *slot, FolderRequest *request, attributes) except? -1:
        cdef fuse_attr_out reply
        memset(&reply, 0, sizeof(reply))
        reply.attr_valid = self.share.attr_valid_s
        fill_attr(checked_attributes(attributes), &reply.attr)
        return self.share.give(slot, request, &reply, sizeof(reply))

    cdef int give_entry(self, RequestSlot *slot, FolderRequest *request, attributes) except? -1:
        cdef fuse_entry_out entry
        self.fill_entry(attributes, &request.one_found, &entry)
        request.found_count = 1
        return self.share.give(slot, request, &entry, sizeof(entry))

    cdef int fill_entry(self, attributes, FoundInode *found, fuse_entry_out *entry) except -1:
        memset(entry, 0, sizeof(fuse_entry_out))
        fill_attr(checked_attributes(attributes), &entry.attr)
        entry.nodeid = entry.attr.ino
        entry.entry_valid = self.share.entry_valid_s
        entry.attr_valid = self.share.attr_valid_s
        found.node_id = entry.nodeid
        fill_number(&found.handle, entry.nodeid, entry.attr.mode & <uint32_t>0o170000)
        return 0

    cdef int give_bytes(self, RequestSlot *slot, FolderRequest *request, data, uint64_t most_bytes) except? -1:
        """Answer with a buffer of at most so many bytes."""
        cdef Py_buffer view
        cdef int error = -EINVAL
        try:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        except TypeError:
            refuse(data, "bytes")
        try:
            if <uint64_t>view.len > most_bytes:
                raise ValueError(f"returned {view.len} bytes; {most_bytes} were asked for")
            if <uint64_t>view.len <= request.reply_bytes and request.can_reply:
                self.share.put(slot, sizeof(fuse_out_header), view.buf, <uint64_t>view.len)
                error = self.share.give_read(slot, request, <uint32_t>view.len)
        finally:
            PyBuffer_Release(&view)
        return error

    cdef int give_value(self, RequestSlot *slot, FolderRequest *request, bytes value) except? -1:
        """Answer with an attribute's value or the list of names; or with its length where none is wanted."""
        cdef uint32_t room_bytes = (<const fuse_getxattr_in *>request.argument).size
        cdef fuse_getxattr_out reply
        if room_bytes == 0:
            reply.size = <uint32_t>len(value)
            reply.padding = 0
            return self.share.give(slot, request, &reply, sizeof(reply))
        if len(value) > min(room_bytes, request.reply_bytes):
            return -ERANGE
        return self.share.give(slot, request, PyBytes_AS_STRING(value), <uint32_t>len(value))

    cdef bytes data_of(self, RequestSlot *slot):
        """What the request brings."""
        cdef bytes data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>slot.length_bytes)
        self.share.gather(slot, <uint8_t *>PyBytes_AS_STRING(data), slot.length_bytes)
        return data


cdef int number_of(error) except -1:
    """The errno of an exception."""
    if isinstance(error, OSError) and error.errno is None:
        for kind, number in _ERRNOS.items():
            if isinstance(error, kind):
                return number
    return errno_of(error)


cdef int refuse(result, str wanted) except -1:
    """Raise `TypeError` for a result of the wrong type."""
    if inspect.iscoroutine(result):
        result.close()   # or Python says, some time later, that nobody has waited for it
    raise TypeError(f"returned an object of type {type(result).__name__}; it must return {wanted}")


cdef object checked_attributes(found):
    if type(found) is not Attributes:
        refuse(found, "ringblk.Attributes")
    if not isinstance(found.inode, int) or found.inode < 1 or stat.S_IFMT(found.mode) == 0:
        raise ValueError(f"returned attributes without an inode or without its kind: {found}")
    return found


cdef int64_t checked_count(result, uint64_t most) except -1:
    """How much was done of what was asked for."""
    if type(result) is not int:
        refuse(result, "an int: how many bytes it was")
    if not 0 <= result <= most:
        raise ValueError(f"returned {result}; {most} bytes were asked for")
    return result


cdef int fill_attr(attributes, fuse_attr *attr) except -1:
    """What does not fit raises `OverflowError`, `TypeError` what is no number."""
    cdef uint64_t device = attributes.rdev
    memset(attr, 0, sizeof(fuse_attr))
    attr.ino = attributes.inode
    attr.size = attributes.size
    attr.blocks = (attr.size + 511) // 512
    attr.mode = attributes.mode
    attr.nlink = attributes.nlink
    attr.uid = attributes.uid
    attr.gid = attributes.gid
    # FUSE's form, which holds 20 and 12 bits.
    attr.rdev = <uint32_t>((os.minor(device) & 0xFF) | (os.major(device) << 8) | ((os.minor(device) & ~0xFF) << 12))
    attr.blksize = 4096
    attr.atime, attr.atimensec = divmod(attributes.atime_ns, NANOSECONDS)
    attr.mtime, attr.mtimensec = divmod(attributes.mtime_ns, NANOSECONDS)
    attr.ctime, attr.ctimensec = divmod(attributes.ctime_ns, NANOSECONDS)
    return 0


cdef str name_of(const FolderRequest *request):
    return os.fsdecode(<bytes><const char *>request.text)


cdef str other_name_of(const FolderRequest *request):
    return os.fsdecode(<bytes>(<const char *>request.text + request.other_text))


cdef object caller_of(const FolderRequest *request):
    return Caller(request.header.uid, request.header.gid, request.header.pid)
