# Records of TLS as they are seen from outside, without a key (RFC 8446, 5.1; RFC 5246, 6.2).

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    RECORD_HEAD_BYTES = 5     # kind, version, length of what follows
    RECORD_DATA = 23          # the kind of those that carry data

cdef struct RecordCursor:
    uint32_t overhead_bytes   # how much longer a record is than what is in it, without its head
    uint64_t seen_bytes       # of the stream
    uint64_t end_bytes        # where in the stream the last whole record ends
    uint64_t data_bytes       # in whole records
    uint32_t left_bytes       # of the record that has begun
    uint32_t coming_bytes     # what it will add to `data_bytes`
    uint32_t head_count
    uint8_t head[RECORD_HEAD_BYTES]


cdef void advance(RecordCursor *cursor, const uint8_t *bytes, uint64_t size_bytes) noexcept nogil
