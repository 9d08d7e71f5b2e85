# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the guest knows of a share, copied out and put in by the control plane, while no queue of it runs.

The dispatcher owns the table and reads it again after it was put in (`InodeTable.note_loaded`). A handle is given as its type
and its bytes.
"""

from libc.errno cimport EPERM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ringblk.shm.platform.kernel_files import path_of_descriptor
from ringblk.shm.platform.folder_calls cimport S_IFMT, close, open_handle, open_name, read_statx, statx
from ringblk.shm.sync.atomic cimport store_release_32
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.fs.request cimport (
    CHUNK_FREE, FORGOTTEN_LIMIT, HANDLE_BYTES, INODE_LIMIT, WINDOW_CHUNK_LIMIT, FileHandle, FolderHeader, InodeRecord,
    WindowChunk, inode_records, window_chunks,
)
from ringblk.workers.fs.share cimport ShareMemory, read_file_handle

cdef extern from "fcntl.h" nogil:
    int O_PATH

LIMIT = <int>INODE_LIMIT


cdef class TableCopy:
    """Of one share. `folder_fd` is the folder's, and stays the caller's; -1: inodes are numbers."""

    cdef ShareMemory shared
    cdef FolderHeader *header
    cdef InodeRecord *records
    cdef int folder_fd
    cdef bytes prefix          # of each path below the folder

    def __init__(self, ShareMemory shared, int folder_fd):
        path = None if folder_fd < 0 else path_of_descriptor(folder_fd)
        self.prefix = b"/" if path is None else path.rstrip(b"/") + b"/"
        self.shared = shared
        self.header = shared.header
        self.records = inode_records(self.header)
        self.folder_fd = folder_fd

    def session(self):
        """What the guest has agreed to: minor version, flags, flags2, bytes of a write."""
        return self.header.minor, self.header.flags, self.header.flags2, self.header.max_write_bytes

    def has_window(self):
        """Whether any file is mapped into the guest. Only of a share that has a window: a look takes memory."""
        cdef WindowChunk *chunks = window_chunks(self.header)
        cdef int index
        for index in range(WINDOW_CHUNK_LIMIT):
            if chunks[index].state != CHUNK_FREE:
                return True
        return False

    def inodes(self):
        """All that the guest knows: node id, lookup count, kind, handle's type and bytes."""
        cdef uint32_t index
        cdef InodeRecord *record
        found = []
        for index in range(min(self.header.record_count, <uint32_t>INODE_LIMIT)):
            record = &self.records[index]
            if record.node_id and record.lookup_count:
                found.append((
                    record.node_id, record.lookup_count, record.handle.mode, record.handle.type,
                    bytes((<char *>record.handle.data)[:record.handle.length_bytes]),
                ))
        return found

    def path_of(self, int32_t handle_type, bytes handle):
        """Where an inode is below the folder; None: nowhere, or nobody can tell, or inodes are numbers."""
        cdef statx found
        cdef int fd
        if self.folder_fd < 0:
            return None
        fd = open_handle(self.folder_fd, <char *>handle, <uint32_t>len(handle), handle_type, O_PATH)
        if fd < 0:
            return None
        path = None if read_statx(fd, &found) or found.stx_nlink == 0 else path_of_descriptor(fd)
        close(fd)
        return None if path is None or not path.startswith(self.prefix) else path[len(self.prefix):]

    def opens(self, int32_t handle_type, bytes handle, uint32_t kind):
        """Whether a handle is of an inode of this kind here; None: this process may not know."""
        cdef int fd = open_handle(self.folder_fd, <char *>handle, <uint32_t>len(handle), handle_type, O_PATH)
        cdef statx found
        cdef int error
        if fd < 0:
            return None if fd == -EPERM else False
        error = read_statx(fd, &found)
        close(fd)
        return error == 0 and (found.stx_mode & S_IFMT) == kind

    def find(self, bytes path, uint32_t kind):
        """The handle of what is there below the folder, type and bytes; None: nothing of this kind."""
        cdef FileHandle handle
        cdef statx found
        cdef int error, fd = open_name(self.folder_fd, path, O_PATH, 0)
        if fd < 0:
            return None
        error = read_statx(fd, &found)
        if error == 0:
            error = read_file_handle(fd, &handle)
        close(fd)
        if error or (found.stx_mode & S_IFMT) != kind:
            return None
        return handle.type, bytes((<char *>handle.data)[:handle.length_bytes])

    def put(self, session, inodes):
        """Have the guest know these, as `inodes` gives them, in place of all others; and what it has agreed to."""
        cdef InodeRecord *record
        cdef uint32_t index = 0
        cdef bytes data
        self.header.minor = 0
        self.header.change.is_under_way = 0
        self.header.record_count = 0
        # Whoever has inodes open that were known before closes them all (Share.drop_forgotten).
        self.header.forgotten_tail += FORGOTTEN_LIMIT
        for node_id, lookup_count, kind, handle_type, data in inodes:
            record = &self.records[index]
            memset(record, 0, sizeof(InodeRecord))
            record.node_id = node_id
            record.lookup_count = lookup_count
            record.handle.mode = kind
            record.handle.type = handle_type
            record.handle.length_bytes = <unsigned short>min(<size_t>len(data), <size_t>HANDLE_BYTES)
            memcpy(record.handle.data, <char *>data, record.handle.length_bytes)
            index += 1
        crash_point("folder: state about to count")
        self.header.known_count = index
        self.header.record_count = index
        self.header.minor, self.header.flags, self.header.flags2, self.header.max_write_bytes = session
        # Release: all of it before the number that says so; pairs with InodeTable.note_loaded.
        store_release_32(&self.header.load_count, self.header.load_count + 1)
