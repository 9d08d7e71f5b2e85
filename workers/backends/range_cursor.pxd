# A place in a list of ranges of memory, and how it moves on.

from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from posix.uio cimport iovec


cdef struct Cursor:
    # A place in a list of ranges.
    const iovec *range
    size_t offset_bytes


cdef inline void skip(Cursor *cursor, const iovec *end, size_t size_bytes) noexcept nogil:
    """Move on by so many bytes, and past ranges of no length."""
    cdef size_t left_bytes
    while cursor.range < end:
        left_bytes = cursor.range.iov_len - cursor.offset_bytes
        if size_bytes < left_bytes:
            cursor.offset_bytes += size_bytes
            return
        size_bytes -= left_bytes
        cursor.range += 1
        cursor.offset_bytes = 0


cdef inline void copy(Cursor *cursor, uint8_t *buffer, size_t size_bytes, bint to_ranges) noexcept nogil:
    """Copy between a buffer and the ranges, from the cursor on; the ranges hold at least as much."""
    cdef size_t chunk_bytes
    cdef uint8_t *place
    while size_bytes:
        chunk_bytes = min(size_bytes, cursor.range.iov_len - cursor.offset_bytes)
        place = <uint8_t *>cursor.range.iov_base + cursor.offset_bytes
        if to_ranges:
            memcpy(place, buffer, chunk_bytes)
        else:
            memcpy(buffer, place, chunk_bytes)
        buffer += chunk_bytes
        size_bytes -= chunk_bytes
        cursor.offset_bytes += chunk_bytes
        if cursor.offset_bytes == cursor.range.iov_len:
            cursor.range += 1
            cursor.offset_bytes = 0
