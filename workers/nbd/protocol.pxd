# The transmission phase of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md). All numbers are
# big-endian on the wire.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "<endian.h>" nogil:
    uint16_t htobe16(uint16_t number)
    uint32_t htobe32(uint32_t number)
    uint64_t htobe64(uint64_t number)
    uint16_t be16toh(uint16_t number)
    uint32_t be32toh(uint32_t number)
    uint64_t be64toh(uint64_t number)

cdef enum:
    REQUEST_MAGIC = 0x25609513
    SIMPLE_REPLY_MAGIC = 0x67446698
    CHUNK_MAGIC = 0x668E33EF

    COMMAND_READ = 0
    COMMAND_WRITE = 1
    COMMAND_FLUSH = 3
    COMMAND_TRIM = 4
    COMMAND_WRITE_ZEROES = 6

    COMMAND_FUA = 1 << 0
    COMMAND_NO_HOLE = 1 << 1

    CHUNK_DONE = 1 << 0       # a chunk's flag: no other follows for this request
    CHUNK_NONE = 0
    CHUNK_OFFSET_DATA = 1
    CHUNK_OFFSET_HOLE = 2
    CHUNK_ERROR_BIT = 1 << 15

    ERROR_SHUTDOWN = 108      # the server is about to end: all other numbers of errors are Linux's

    SIMPLE_REPLY_BYTES = 16
    CHUNK_HEADER_BYTES = 20
    LONGEST_CONTROL_BYTES = 1 << 16   # of a chunk that is no data: an error with its message

cdef packed struct RequestHeader:
    uint32_t magic
    uint16_t flags
    uint16_t command
    uint64_t cookie
    uint64_t offset_bytes
    uint32_t length_bytes

cdef packed struct SimpleReply:
    uint32_t magic
    uint32_t error
    uint64_t cookie

cdef packed struct ChunkHeader:
    uint32_t magic
    uint16_t flags
    uint16_t type
    uint64_t cookie
    uint32_t length_bytes
