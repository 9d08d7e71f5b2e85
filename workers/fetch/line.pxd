from libc.stdint cimport uint8_t, uint64_t
from posix.uio cimport iovec


cdef class FetchLine:
    cdef bytes _path
    cdef const char *path
    cdef int fd               # -1: not connected
    cdef int pid              # of the process that has connected: none has a line in common with another
    cdef uint8_t layer_id[16]
    cdef public uint64_t patience_ns  # how long to wait for an answer; the largest number: for ever

    cdef int fetch(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil
    cdef int read(self, const iovec *ranges, int range_count, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil
    cdef int _ask(self, uint64_t offset_bytes, uint64_t length_bytes, bint wants_bytes, const iovec *ranges,
                  int range_count, bint *has_bytes) noexcept nogil
    cdef int _try(self, uint64_t offset_bytes, uint64_t length_bytes, bint wants_bytes, const iovec *ranges,
                  int range_count, bint *has_bytes, uint64_t until_ns) noexcept nogil
    cdef bint _connect(self) noexcept nogil
    cdef void hang_up(self) noexcept nogil
