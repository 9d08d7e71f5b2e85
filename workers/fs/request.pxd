# A file system's requests beside their slots: the memory that all processes of a share have in common.
#
#   FolderHeader | FolderRequest[REQUEST_LIMIT] | InodeRecord[INODE_LIMIT] | WindowChunk[WINDOW_CHUNK_LIMIT]
#
# The request of slot i is FolderRequest i: the parser copies all but the data of a chain there, with the file handles of
# the inodes that it names, and whoever carries it out works from that. An inode is what the guest knows by a node id: the
# host's file handle of it (open_by_handle_at(2)), so that no process has anything open that another one would miss.
# All of it is one descriptor, which has addresses for all and memory for what was touched.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from ringblk.workers.fs.wire cimport fuse_in_header

cdef enum:
    FOLDER_LAYOUT_VERSION = 1
    REQUEST_LIMIT = 8192       # as many as a drive has slots (engine/drives/making.py)
    INODE_LIMIT = 1 << 22      # that a guest may know at once
    HANDLE_BYTES = 44          # of a file handle: the longest that the file systems of Linux have without a parent's is 40
    NAME_BYTES = 256           # of a name with its end
    TEXT_BYTES = 4864          # names, or a name and a symbolic link's target (PATH_MAX), with their ends
    ARGUMENT_BYTES = 128       # the longest argument structure has 88
    FOUND_LIMIT = 64           # entries of a READDIRPLUS that the guest gets to know
    FORGOTTEN_LIMIT = 1024
    CHUNK_BYTES = 1 << 21      # of the DAX window, as Linux asks for it
    WINDOW_CHUNK_LIMIT = 1 << 15

cdef enum ChunkState:
    CHUNK_FREE = 0
    CHUNK_MAPPED = 1
    CHUNK_CHANGING = 2         # the front end was asked, and what has become of that is not known


cdef struct FileHandle:
    uint16_t length_bytes
    uint16_t mount_index       # 0: the folder's own mount
    int32_t type
    uint8_t data[HANDLE_BYTES]
    uint32_t mode              # S_IFMT of what it is


cdef struct InodeRecord:
    # Written by the dispatcher alone.
    uint64_t node_id           # 0: free
    uint64_t lookup_count      # how often the guest was told of it, less what it has forgotten
    FileHandle handle


cdef struct FoundInode:
    uint64_t node_id
    FileHandle handle


cdef struct FolderRequest:
    # Written by the parser before the slot is handed over.
    fuse_in_header header
    uint8_t argument[ARGUMENT_BYTES]
    uint32_t can_reply         # there is a header, and room for another
    uint32_t text_bytes
    uint32_t reply_bytes       # room for a reply behind its header, as long as no reply may be longer
    uint32_t other_text        # where the second name begins
    uint64_t other_id          # the second inode that the request names
    FileHandle node
    FileHandle other
    int64_t begun_s            # the host's time when it was taken in, by the clock that files are stamped with
    int64_t begun_ns
    # Written by who carries it out, before the slot is done.
    uint32_t is_begun          # it was begun, maybe by a process that has died since
    uint32_t found_count       # inodes that the reply tells the guest of
    FoundInode one_found
    # Written by the dispatcher when it publishes the outcome.
    uint32_t is_concluded
    uint32_t concluded_count   # of what was found, or forgotten
    # The text, or what a READDIRPLUS has found.
    uint8_t text[TEXT_BYTES]


cdef struct WindowChunk:
    # Written by the dispatcher alone.
    uint64_t node_id
    uint64_t file_offset_bytes
    uint64_t length_bytes
    uint32_t state
    uint32_t reserved


cdef struct CountChange:
    # The change of a lookup count that the dispatcher is at: one that dies in the middle of it leaves it here.
    uint32_t is_under_way
    uint32_t record_index
    uint64_t new_count
    uint32_t slot_index
    uint32_t new_concluded_count
    uint64_t reserved


cdef struct FolderHeader:
    uint32_t layout_version
    uint32_t has_nameless      # set by who has put something into the queue (nameless.pyx), cleared by the dispatcher
    # What the guest has agreed to in its INIT; written by the dispatcher, as all below; and by the control plane for a
    # guest that comes, before a queue runs.
    uint32_t minor             # 0: no INIT yet
    uint32_t flags
    uint32_t flags2
    uint32_t max_write_bytes
    # The dispatcher's.
    uint32_t record_count      # records that were ever used
    uint32_t known_count       # inodes that the guest knows
    uint32_t window_asked      # what the front end was asked about the window,
    uint32_t window_answered   # and what it has answered
    CountChange change
    FileHandle root
    # What the guest has forgotten lately, for whoever has it open; a position is one modulo FORGOTTEN_LIMIT.
    uint64_t forgotten_tail
    uint64_t forgotten[FORGOTTEN_LIMIT]
    uint32_t window_is_legacy  # the dispatcher's: how the front end is asked (window.pyx)
    uint32_t load_count        # how often the control plane has put the state of a guest that moves here (table_copy.pyx)
    uint64_t sweep_count       # the dispatcher's (nameless.pyx)


cdef inline FolderRequest *folder_requests(FolderHeader *header) noexcept nogil:
    return <FolderRequest *>(<uint8_t *>header + 16384)


cdef inline InodeRecord *inode_records(FolderHeader *header) noexcept nogil:
    return <InodeRecord *>(folder_requests(header) + REQUEST_LIMIT)


cdef inline WindowChunk *window_chunks(FolderHeader *header) noexcept nogil:
    return <WindowChunk *>(inode_records(header) + INODE_LIMIT)
