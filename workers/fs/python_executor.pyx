# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Carrying out requests by a class of a user's own (`file_system.py`): an opcode is a method.

What a method raises becomes an errno, what it returns is looked at: nothing that it does ends a worker.
"""

cimport cython
from libc.errno cimport ENOSYS
from libc.stdint cimport uint32_t
from libc.string cimport memset

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.data cimport do_open
from ringblk.workers.fs.protocol cimport *
from ringblk.workers.fs.python_data cimport *
from ringblk.workers.fs.python_folders cimport answer_readdir
from ringblk.workers.fs.python_names cimport *
from ringblk.workers.fs.python_share cimport PythonShare
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.rules cimport OPCODE_LIMIT
from ringblk.workers.fs.session cimport do_init
from ringblk.workers.fs.share cimport Share
from ringblk.workers.fs.share_executor cimport ShareExecutor

ctypedef int (*Answer)(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1

cdef Answer[OPCODE_LIMIT] answers
memset(answers, 0, sizeof(answers))
answers[<int>FUSE_LOOKUP] = answer_lookup
answers[<int>FUSE_GETATTR] = answer_getattr
answers[<int>FUSE_SETATTR] = answer_setattr
answers[<int>FUSE_READLINK] = answer_readlink
answers[<int>FUSE_SYMLINK] = answer_symlink
answers[<int>FUSE_MKNOD] = answer_mknod
answers[<int>FUSE_MKDIR] = answer_mkdir
answers[<int>FUSE_UNLINK] = answers[<int>FUSE_RMDIR] = answer_remove
answers[<int>FUSE_RENAME] = answers[<int>FUSE_RENAME2] = answer_rename
answers[<int>FUSE_LINK] = answer_link
answers[<int>FUSE_OPEN] = answer_open
answers[<int>FUSE_READ] = answer_read
answers[<int>FUSE_WRITE] = answer_write
answers[<int>FUSE_STATFS] = answer_statfs
answers[<int>FUSE_FLUSH] = answers[<int>FUSE_RELEASE] = answer_node
answers[<int>FUSE_FSYNC] = answers[<int>FUSE_FSYNCDIR] = answer_fsync
answers[<int>FUSE_SETXATTR] = answer_setxattr
answers[<int>FUSE_GETXATTR] = answer_getxattr
answers[<int>FUSE_LISTXATTR] = answer_listxattr
answers[<int>FUSE_REMOVEXATTR] = answer_removexattr
answers[<int>FUSE_READDIR] = answers[<int>FUSE_READDIRPLUS] = answer_readdir
answers[<int>FUSE_ACCESS] = answer_access
answers[<int>FUSE_CREATE] = answer_create
answers[<int>FUSE_FALLOCATE] = answer_fallocate
answers[<int>FUSE_LSEEK] = answer_lseek
answers[<int>FUSE_COPY_FILE_RANGE] = answer_copy
answers[<int>FUSE_SYNCFS] = answer_syncfs

_METHODS = {
    FUSE_LOOKUP: "lookup", FUSE_GETATTR: "getattr", FUSE_SETATTR: "setattr", FUSE_READLINK: "readlink",
    FUSE_SYMLINK: "symlink", FUSE_MKNOD: "mknod", FUSE_MKDIR: "mkdir", FUSE_UNLINK: "unlink", FUSE_RMDIR: "rmdir",
    FUSE_RENAME: "rename", FUSE_RENAME2: "rename", FUSE_LINK: "link", FUSE_OPEN: "open", FUSE_READ: "read",
    FUSE_WRITE: "write", FUSE_STATFS: "statfs", FUSE_RELEASE: "release", FUSE_FSYNC: "fsync", FUSE_FSYNCDIR: "fsync",
    FUSE_SETXATTR: "setxattr", FUSE_GETXATTR: "getxattr", FUSE_LISTXATTR: "listxattr",
    FUSE_REMOVEXATTR: "removexattr", FUSE_FLUSH: "flush", FUSE_READDIR: "readdir", FUSE_READDIRPLUS: "readdir",
    FUSE_ACCESS: "access", FUSE_CREATE: "create", FUSE_FALLOCATE: "fallocate", FUSE_LSEEK: "lseek",
    FUSE_COPY_FILE_RANGE: "copy_file_range", FUSE_SYNCFS: "syncfs",
}


def worker_opcodes(file_system):
    """What a worker has to do for this class that needs nobody for a folder: a bit for each opcode."""
    return sum(1 << opcode for opcode in (FUSE_OPEN, FUSE_RELEASE, FUSE_FLUSH)
               if callable(getattr(file_system, _METHODS[opcode], None)))


@cython.final
cdef class PythonExecutor(ShareExecutor):
    """Executes requests on `file_system`, which `python_folder.check_file_system` has found complete."""

    cdef PythonShare python
    cdef list methods         # by opcode; None: there is none

    def __init__(self, Share share, file_system):
        super().__init__(share)
        self.python = PythonShare(share, file_system)
        self.methods = [getattr(file_system, _METHODS[opcode], None) if opcode in _METHODS else None
                        for opcode in range(OPCODE_LIMIT)]

    cdef int carry_out(self, RequestSlot *slot, FolderRequest *request) noexcept nogil:
        cdef uint32_t opcode = request.header.opcode
        if opcode == FUSE_INIT:
            return do_init(self.share, slot, request)
        if opcode == FUSE_FORGET or opcode == FUSE_BATCH_FORGET or opcode == FUSE_INTERRUPT:
            return 0
        if opcode == FUSE_OPENDIR:
            return do_open(self.share, slot, request)
        if opcode == FUSE_RELEASEDIR or opcode == FUSE_DESTROY:
            return self.share.give_read(slot, request, 0)
        if answers[opcode] == NULL:
            return -ENOSYS
        with gil:
            return self._answer(slot, request)

    cdef int _answer(self, RequestSlot *slot, FolderRequest *request) noexcept:
        """Have the class answer: 0 or a negative errno."""
        cdef uint32_t opcode = request.header.opcode
        method = self.methods[opcode]
        if method is None and opcode == FUSE_OPEN:
            return do_open(self.share, slot, request)
        if method is None:
            return self.share.give_read(slot, request, 0) if opcode == FUSE_RELEASE else -ENOSYS
        try:
            return answers[opcode](self.python, slot, request, method)
        except BaseException as error:
            request.found_count = 0
            return self.python.report(_METHODS[opcode], error)
