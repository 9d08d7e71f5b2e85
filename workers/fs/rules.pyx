# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a request of each opcode consists of (linux/fuse.h), and what an opcode is called in statistics."""

from libc.string cimport memset

from ringblk.workers.fs.protocol cimport *
from ringblk.workers.fs.wire cimport *

cdef Rule[OPCODE_LIMIT] rules
memset(rules, 0, sizeof(rules))

cdef int NODE_BRIEF = RULE_NODE | RULE_BRIEF
cdef int CHANGE = RULE_NODE | RULE_BRIEF | RULE_CHANGES
cdef int AT_ONCE = RULE_NODE | RULE_IN_PLACE

_TABLE = (
    ("lookup", FUSE_LOOKUP, 0, TEXT_NAME, NODE_BRIEF),
    ("forget", FUSE_FORGET, sizeof(fuse_forget_in), TEXT_NONE, RULE_IN_PLACE | RULE_NO_REPLY),
    ("getattr", FUSE_GETATTR, sizeof(fuse_getattr_in), TEXT_NONE, NODE_BRIEF),
    ("setattr", FUSE_SETATTR, sizeof(fuse_setattr_in), TEXT_NONE, CHANGE),
    ("readlink", FUSE_READLINK, 0, TEXT_NONE, NODE_BRIEF),
    ("symlink", FUSE_SYMLINK, 0, TEXT_NAME_TARGET, CHANGE),
    ("mknod", FUSE_MKNOD, sizeof(fuse_mknod_in), TEXT_NAME, CHANGE),
    ("mkdir", FUSE_MKDIR, sizeof(fuse_mkdir_in), TEXT_NAME, CHANGE),
    ("unlink", FUSE_UNLINK, 0, TEXT_NAME, CHANGE),
    ("rmdir", FUSE_RMDIR, 0, TEXT_NAME, CHANGE),
    ("rename", FUSE_RENAME, sizeof(fuse_rename_in), TEXT_TWO_NAMES, CHANGE),
    ("link", FUSE_LINK, sizeof(fuse_link_in), TEXT_NAME, CHANGE),
    ("open", FUSE_OPEN, sizeof(fuse_open_in), TEXT_NONE, AT_ONCE),
    ("read", FUSE_READ, sizeof(fuse_read_in), TEXT_NONE, NODE_BRIEF),
    ("write", FUSE_WRITE, sizeof(fuse_write_in), TEXT_DATA, CHANGE),
    ("statfs", FUSE_STATFS, 0, TEXT_NONE, NODE_BRIEF),
    ("release", FUSE_RELEASE, sizeof(fuse_release_in), TEXT_NONE, AT_ONCE),
    ("fsync", FUSE_FSYNC, sizeof(fuse_fsync_in), TEXT_NONE, RULE_NODE | RULE_LONG),
    ("setxattr", FUSE_SETXATTR, 8, TEXT_ATTRIBUTE_DATA, CHANGE),
    ("getxattr", FUSE_GETXATTR, sizeof(fuse_getxattr_in), TEXT_ATTRIBUTE, NODE_BRIEF),
    ("listxattr", FUSE_LISTXATTR, sizeof(fuse_getxattr_in), TEXT_NONE, NODE_BRIEF),
    ("removexattr", FUSE_REMOVEXATTR, 0, TEXT_ATTRIBUTE, CHANGE),
    ("flush", FUSE_FLUSH, sizeof(fuse_flush_in), TEXT_NONE, AT_ONCE),
    ("init", FUSE_INIT, 16, TEXT_DATA, RULE_IN_PLACE),
    ("opendir", FUSE_OPENDIR, sizeof(fuse_open_in), TEXT_NONE, AT_ONCE),
    ("readdir", FUSE_READDIR, sizeof(fuse_read_in), TEXT_NONE, NODE_BRIEF),
    ("releasedir", FUSE_RELEASEDIR, sizeof(fuse_release_in), TEXT_NONE, AT_ONCE),
    ("fsyncdir", FUSE_FSYNCDIR, sizeof(fuse_fsync_in), TEXT_NONE, RULE_NODE | RULE_LONG),
    ("access", FUSE_ACCESS, sizeof(fuse_access_in), TEXT_NONE, NODE_BRIEF),
    ("create", FUSE_CREATE, sizeof(fuse_create_in), TEXT_NAME, CHANGE),
    ("interrupt", FUSE_INTERRUPT, sizeof(fuse_interrupt_in), TEXT_NONE, RULE_IN_PLACE | RULE_NO_REPLY),
    ("destroy", FUSE_DESTROY, 0, TEXT_NONE, RULE_IN_PLACE),
    ("batch_forget", FUSE_BATCH_FORGET, sizeof(fuse_batch_forget_in), TEXT_DATA, RULE_IN_PLACE | RULE_NO_REPLY),
    ("fallocate", FUSE_FALLOCATE, sizeof(fuse_fallocate_in), TEXT_NONE, RULE_NODE | RULE_CHANGES | RULE_LONG),
    ("readdirplus", FUSE_READDIRPLUS, sizeof(fuse_read_in), TEXT_NONE, NODE_BRIEF),
    ("rename2", FUSE_RENAME2, sizeof(fuse_rename2_in), TEXT_TWO_NAMES, CHANGE),
    ("lseek", FUSE_LSEEK, sizeof(fuse_lseek_in), TEXT_NONE, NODE_BRIEF),
    ("copy_file_range", FUSE_COPY_FILE_RANGE, sizeof(fuse_copy_file_range_in), TEXT_NONE, RULE_NODE | RULE_CHANGES | RULE_LONG),
    ("setupmapping", FUSE_SETUPMAPPING, sizeof(fuse_setupmapping_in), TEXT_NONE, AT_ONCE),
    ("removemapping", FUSE_REMOVEMAPPING, sizeof(fuse_removemapping_in), TEXT_DATA, RULE_IN_PLACE),
    ("syncfs", FUSE_SYNCFS, sizeof(fuse_syncfs_in), TEXT_NONE, RULE_NODE | RULE_LONG),
    ("tmpfile", FUSE_TMPFILE, sizeof(fuse_create_in), TEXT_NAME, CHANGE),
    ("statx", FUSE_STATX, sizeof(fuse_statx_in), TEXT_NONE, NODE_BRIEF),
)

OPERATION_NAMES = tuple(row[0] for row in _TABLE)
"""A slot's operation in words, from 1 on."""
OPCODES = {row[0]: row[1] for row in _TABLE}

for _number, _row in enumerate(_TABLE, start=1):
    rules[<uint32_t>_row[1]] = Rule(operation=_number, argument_bytes=_row[2], text=_row[3], flags=_row[4])


cdef const Rule *rule_of(uint32_t opcode) noexcept nogil:
    """The rule of an opcode, or NULL."""
    if opcode >= OPCODE_LIMIT or rules[opcode].operation == 0:
        return NULL
    return &rules[opcode]
