# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Counting, from outside, how many bytes of data have come in TLS records.

Each record says its length in the clear, and is longer than what is in it by a number that its cipher fixes, unless
its sender pads. So whoever has no key can tell how much has been said, and not what.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

_TLS_1_3_BYTES = 17   # the tag, and the kind of what is in it
_GCM_BYTES, _CHACHA_BYTES = 24, 16


def overhead_of(version, cipher):
    """How much longer a record is than what is in it, as Python's ssl names version and cipher; 0: nobody can tell."""
    if version == "TLSv1.3":
        return _TLS_1_3_BYTES
    if "GCM" in cipher:
        return _GCM_BYTES
    return _CHACHA_BYTES if "CHACHA20" in cipher else 0


cdef void advance(RecordCursor *cursor, const uint8_t *bytes, uint64_t size_bytes) noexcept nogil:
    """Go on by these bytes of the stream."""
    cdef uint64_t part_bytes
    while size_bytes:
        if cursor.left_bytes:
            part_bytes = min(size_bytes, <uint64_t>cursor.left_bytes)
            cursor.left_bytes -= <uint32_t>part_bytes
        else:
            part_bytes = min(size_bytes, <uint64_t>(RECORD_HEAD_BYTES - cursor.head_count))
            memcpy(&cursor.head[cursor.head_count], bytes, part_bytes)
            cursor.head_count += <uint32_t>part_bytes
            if cursor.head_count == RECORD_HEAD_BYTES:
                cursor.left_bytes = <uint32_t>cursor.head[3] << 8 | cursor.head[4]
                cursor.coming_bytes = 0
                if cursor.head[0] == RECORD_DATA and cursor.left_bytes > cursor.overhead_bytes:
                    cursor.coming_bytes = cursor.left_bytes - cursor.overhead_bytes
        bytes += part_bytes
        size_bytes -= part_bytes
        cursor.seen_bytes += part_bytes
        if cursor.left_bytes == 0 and cursor.head_count == RECORD_HEAD_BYTES:
            cursor.end_bytes = cursor.seen_bytes
            cursor.data_bytes += cursor.coming_bytes
            cursor.head_count = 0


cdef class RecordCount:
    """Of a stream that begins with a record."""

    cdef RecordCursor cursor

    def __init__(self, uint32_t overhead_bytes):
        self.cursor.overhead_bytes = overhead_bytes

    def feed(self, const unsigned char[:] data):
        """Go on by these bytes."""
        if data.shape[0]:
            advance(&self.cursor, &data[0], data.shape[0])

    @property
    def data_bytes(self):
        """In the records that have come whole."""
        return self.cursor.data_bytes

    @property
    def is_between(self):
        """Whether no record has begun that has not ended."""
        return self.cursor.end_bytes == self.cursor.seen_bytes
