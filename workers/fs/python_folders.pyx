# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""READDIR and READDIRPLUS by a class of a user's own, which says all names of a folder at once.

A guest reads on from the offset of the last entry that it has got, whoever carries that out, and while names come and
go. So an entry's offset is made of its name alone (a hash of 62 bits), and entries are given in its order.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.errno cimport EINVAL, ENOTDIR
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

import hashlib
import os

from ringblk.shm.platform.folder_calls cimport S_IFDIR
from ringblk.workers.fs.protocol cimport FUSE_READDIRPLUS
from ringblk.workers.fs.python_share cimport number_of, refuse
from ringblk.workers.fs.request cimport FOUND_LIMIT, FoundInode
from ringblk.workers.fs.share cimport BUFFER_BYTES
from ringblk.workers.fs.wire cimport fuse_dirent, fuse_entry_out

cdef enum:
    DOT_OFFSET = 1
    DOT_DOT_OFFSET = 2
    NAME_LIMIT_BYTES = 255

cdef uint64_t UNKNOWN_INODE = 0xFFFFFFFF   # as libfuse has it


cdef uint64_t offset_of(bytes name):
    """Where in its folder an entry stands."""
    return (int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 2) + DOT_DOT_OFFSET + 1


cdef bytes checked_name(name):
    cdef bytes encoded
    if type(name) is not str:
        refuse(name, "names, each a str")
    encoded = os.fsencode(name)
    if not 0 < len(encoded) <= NAME_LIMIT_BYTES or b"/" in encoded or b"\0" in encoded or encoded in (b".", b".."):
        raise ValueError(f"returned {name!r}, which is no file's name")
    return encoded


cdef uint32_t put_entry(PythonShare self, FolderRequest *request, uint64_t offset, bytes name, uint8_t *place,
                        uint32_t room_bytes) except? 0xFFFFFFFF:
    """Write an entry as the guest is to read it; its size, or 0: there is no room."""
    cdef bint is_plus = request.header.opcode == FUSE_READDIRPLUS
    cdef uint32_t head_bytes = sizeof(fuse_entry_out) if is_plus else 0
    cdef uint32_t whole_bytes = (head_bytes + <uint32_t>sizeof(fuse_dirent) + <uint32_t>len(name) + 7) & ~<uint32_t>7
    cdef fuse_dirent *dirent = <fuse_dirent *>(place + head_bytes)
    cdef FoundInode *found = <FoundInode *>request.text + request.found_count
    if whole_bytes > room_bytes or (is_plus and request.found_count == FOUND_LIMIT):
        return 0
    memset(place, 0, whole_bytes)
    dirent.ino = request.header.nodeid if offset == DOT_OFFSET else UNKNOWN_INODE
    dirent.off = offset
    dirent.namelen = <uint32_t>len(name)
    if offset <= DOT_DOT_OFFSET:
        dirent.type = S_IFDIR >> 12
    elif is_plus:
        try:
            self.fill_entry(self.look_up(request.header.nodeid, os.fsdecode(name)), found, <fuse_entry_out *>place)
            request.found_count += 1
            dirent.ino = (<fuse_entry_out *>place).attr.ino
            dirent.type = (<fuse_entry_out *>place).attr.mode >> 12
        except BaseException as error:   # no more than its name is known
            self.report("lookup", error)
            memset(place, 0, head_bytes)
    memcpy(place + head_bytes + sizeof(fuse_dirent), PyBytes_AS_STRING(name), len(name))
    return whole_bytes


cdef int answer_readdir(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1:
    cdef uint32_t room_bytes = <uint32_t>min(slot.length_bytes, <uint64_t>BUFFER_BYTES), done = 0, entry_bytes = 0
    cdef uint8_t *reply = self.share.buffer
    cdef uint64_t offset
    if request.node.mode != <uint32_t>S_IFDIR:
        return -ENOTDIR
    names = method(request.header.nodeid)
    if isinstance(names, (str, bytes)) or not hasattr(names, "__iter__"):
        refuse(names, "names")
    entries = [(DOT_OFFSET, b"."), (DOT_DOT_OFFSET, b"..")]
    encoded_names = {checked_name(name) for name in names}
    entries += sorted((offset_of(name), name) for name in encoded_names)
    request.found_count = 0
    for offset, name in entries:
        if offset <= slot.offset_bytes:
            continue
        entry_bytes = put_entry(self, request, offset, name, reply + done, room_bytes - done)
        if entry_bytes == 0:
            if done == 0:
                return -EINVAL   # not even one fits
            break
        done += entry_bytes
    return self.share.give(slot, request, reply, done)
