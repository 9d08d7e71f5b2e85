"""The messages of a file system in user space, as the kernel has them (linux/fuse.h, version 7.31)."""

import enum
import os
import struct

ROOT_NODE = 1
MAX_WRITE_BYTES = 1 << 20
"""The largest piece that a write comes in."""
IN_HEADER = struct.Struct("<IIQQIIIHH")
"""Length, operation, number, node, user, group, process, two more."""
OUT_HEADER = struct.Struct("<IiQ")
MKDIR_IN = struct.Struct("<II")
RENAME_IN = struct.Struct("<Q")
RENAME2_IN = struct.Struct("<QII")
LINK_IN = struct.Struct("<Q")
SETATTR_IN = struct.Struct("<II6Q8I")
CREATE_IN = struct.Struct("<IIII")
READ_IN = struct.Struct("<QQIIQII")
"""Handle, offset, size, flags of the request, lock owner, flags of the file: of WRITE as well."""
FALLOCATE_IN = struct.Struct("<QQQII")
LSEEK_IN = struct.Struct("<QQII")
LSEEK_OUT = struct.Struct("<Q")
OPEN_OUT = struct.Struct("<QIi")
WRITE_OUT = struct.Struct("<II")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHIIH22x")
_ATTR = struct.Struct("<6Q10I")
_ENTRY_OUT = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
_STATFS_OUT = struct.Struct("<5Q4I24x")
_DIRENT = struct.Struct("<QQII")

_MAX_PAGES, _BIG_WRITES = 1 << 22, 1 << 5
KEEP_CACHE = 1 << 1
"""Of an open file: what the page cache has of it stays."""
WRITTEN_BACK = 1 << 0
"""Of a write: it is what was stored through a mapping."""
_CACHE_S = 3600


class Operation(enum.IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45
    LSEEK = 46


UNANSWERED = (Operation.FORGET, Operation.INTERRUPT, Operation.BATCH_FORGET)


class Valid(enum.IntFlag):
    """What a SETATTR sets."""

    MODE = 1
    UID = 2
    GID = 4
    SIZE = 8
    ATIME = 16
    MTIME = 32
    ATIME_NOW = 128
    MTIME_NOW = 256


def init_reply(body: bytes) -> bytes:
    """Whole writes at once, without asynchronous direct I/O: a durable write then ends with its flush."""
    major, _, readahead, _ = _INIT_IN.unpack_from(body)
    flags, pages = _MAX_PAGES | _BIG_WRITES, MAX_WRITE_BYTES // 4096
    return _INIT_OUT.pack(major, 31, readahead, flags, 64, 48, MAX_WRITE_BYTES, 1, pages, 0, 0, 0, 0)


def attributes(node: int, info: os.stat_result) -> bytes:
    """The attributes of a node."""
    times = (info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns)
    seconds, rest_ns = [time // 10**9 for time in times], [time % 10**9 for time in times]
    owner = (info.st_mode, info.st_nlink, info.st_uid, info.st_gid)
    return _ATTR.pack(node, info.st_size, info.st_blocks, *seconds, *rest_ns, *owner, 0, 4096, 0)


def entry_reply(node: int, info: os.stat_result) -> bytes:
    """A name was found or made."""
    return _ENTRY_OUT.pack(node, 0, _CACHE_S, _CACHE_S, 0, 0) + attributes(node, info)


def attributes_reply(node: int, info: os.stat_result) -> bytes:
    """What GETATTR and SETATTR answer."""
    return _ATTR_OUT.pack(_CACHE_S, 0, 0) + attributes(node, info)


def statfs_reply(found: os.statvfs_result) -> bytes:
    """How full the file system is."""
    space = (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
    return _STATFS_OUT.pack(*space, found.f_bsize, found.f_namemax, found.f_frsize, 0)


def directory_entry(inode: int, next_offset: int, name: bytes, kind: int) -> bytes:
    """An entry of READDIR; `kind` is the type of a mode."""
    head = _DIRENT.pack(inode, next_offset, len(name), kind >> 12)
    return (head + name).ljust(-(-(len(head) + len(name)) // 8) * 8, b"\0")
