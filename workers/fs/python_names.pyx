# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests about names in folders, by a class of a user's own.

A request that was begun by a worker that has died since is carried out again. "It is there" and "it is gone" are
outcomes then: the guest had looked before it asked.
"""

from libc.errno cimport EEXIST, ENOENT
from libc.stdint cimport uint32_t
from libc.string cimport memset

import os
import stat

from ringblk.workers.fs.names cimport CreateOut
from ringblk.workers.fs.protocol cimport FUSE_RENAME2
from ringblk.workers.fs.python_share cimport caller_of, name_of, number_of, other_name_of, refuse
from ringblk.workers.fs.wire cimport fuse_create_in, fuse_mkdir_in, fuse_mknod_in, fuse_rename2_in

from ringblk.workers.fs.file_system import Changes


cdef int answer_lookup(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    return self.give_entry(slot, request, method(request.header.nodeid, name_of(request)))


cdef int answer_readlink(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    target = method(request.header.nodeid)
    if type(target) is not str:
        refuse(target, "a str")
    return self.give_bytes(slot, request, os.fsencode(target), 4095)


cdef object made(PythonShare self, FolderRequest *request, method, tuple arguments, uint32_t kind):
    """What was made; or what is there, where this request was begun by who has died since."""
    try:
        return method(request.header.nodeid, name_of(request), *arguments, caller_of(request))
    except OSError as error:
        if not self.share.was_begun or number_of(error) != EEXIST:
            raise
        there = self.look_up(request.header.nodeid, name_of(request))
        if stat.S_IFMT(there.mode) != kind:
            raise
        return there


cdef int answer_symlink(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    return self.give_entry(slot, request, made(self, request, method, (other_name_of(request),), stat.S_IFLNK))


cdef int answer_mknod(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    cdef const fuse_mknod_in *argument = <const fuse_mknod_in *>request.argument
    cdef uint32_t kind = stat.S_IFMT(argument.mode) or stat.S_IFREG
    device = os.makedev((argument.rdev >> 8) & 0xFFF, (argument.rdev & 0xFF) | ((argument.rdev >> 12) & 0xFFF00))
    mode = kind | (argument.mode & 0o7777)
    return self.give_entry(slot, request, made(self, request, method, (mode, device), kind))


cdef int answer_mkdir(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    mode = (<const fuse_mkdir_in *>request.argument).mode & 0o7777
    return self.give_entry(slot, request, made(self, request, method, (mode,), stat.S_IFDIR))


cdef int answer_create(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    cdef const fuse_create_in *argument = <const fuse_create_in *>request.argument
    cdef CreateOut reply
    try:
        attributes = made(self, request, method, (argument.mode & 0o7777,), stat.S_IFREG)
    except OSError as error:
        if argument.flags & <uint32_t>os.O_EXCL or number_of(error) != EEXIST:
            raise
        attributes = self.look_up(request.header.nodeid, name_of(request))
        if argument.flags & <uint32_t>os.O_TRUNC:
            attributes = self.file_system.setattr(attributes.inode, Changes(size=0))
    self.fill_entry(attributes, &request.one_found, &reply.entry)
    request.found_count = 1
    memset(&reply.file, 0, sizeof(reply.file))
    reply.file.open_flags = self.share.open_flags
    return self.share.give(slot, request, &reply, sizeof(reply))


cdef int answer_remove(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    try:
        return self.give_done(slot, request, method(request.header.nodeid, name_of(request)))
    except OSError as error:
        if self.share.was_begun and number_of(error) == ENOENT:   # the guest knew it
            return self.share.give_read(slot, request, 0)
        raise


cdef int answer_rename(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    flags = (<const fuse_rename2_in *>request.argument).flags if request.header.opcode == FUSE_RENAME2 else 0
    try:
        return self.give_done(slot, request, method(request.header.nodeid, name_of(request), request.other_id,
                                                    other_name_of(request), flags))
    except OSError as error:
        if not self.share.was_begun or number_of(error) != ENOENT:
            raise
        self.look_up(request.other_id, other_name_of(request))
        return self.share.give_read(slot, request, 0)


cdef int answer_link(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    try:
        attributes = method(request.other_id, request.header.nodeid, name_of(request))
    except OSError as error:
        if not self.share.was_begun or number_of(error) != EEXIST:
            raise
        attributes = self.look_up(request.header.nodeid, name_of(request))
        if attributes.inode != request.other_id:
            raise
    return self.give_entry(slot, request, attributes)
