from libc.stdint cimport uint32_t, uint8_t

cdef enum:
    IDENTITY_BYTES = 10    # as the message has it: two bytes of msgpack, and eight of the number


cdef struct KeptSocketEntry:
    KeptSocketEntry *next
    int fd
    int size_bytes
    uint8_t message[0]


cdef class KeptSockets:
    cdef KeptSocketEntry *last
    cdef bint take(self, const uint8_t *message, int size_bytes, const int *fds, int fd_count) noexcept
    cdef void keep(self, const uint8_t *message, int size_bytes, int fd) noexcept
    cdef bint keep_ring(self, const uint8_t *message, int size_bytes, uint32_t pid, int fd) noexcept
    cdef void let_go(self, const uint8_t *identity) noexcept
    cdef void close_all(self) noexcept
