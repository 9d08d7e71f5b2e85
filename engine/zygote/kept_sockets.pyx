# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The sockets that a zygote keeps for the next supervisor, each with the message that brought it (`KeepSocket`).

Compiled, because drives come and go all the time: the interpreter would write to pages that the zygote shares
with its children.
"""

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from posix.unistd cimport close

# Behind the array's head; the identity follows at once.
cdef uint8_t *KEEP_TAG = b"\xaaKeepSocket"
cdef uint8_t *LET_GO_TAG = b"\xacForgetSocket"

cdef enum:
    KEEP_TAG_BYTES = 11
    LET_GO_TAG_BYTES = 13
    RING_MESSAGE_BYTES = 64


cdef class KeptSockets:
    """Of one zygote."""

    def __dealloc__(self):
        cdef KeptSocketEntry *entry
        while self.last != NULL:
            entry = self.last
            self.last = entry.next
            free(entry)

    def add(self, bytes message, int fd):
        """Keep one that was kept before this process began."""
        self.keep(<const uint8_t *>message, <int>len(message), fd)

    def entries(self):
        """The message and the descriptor of each, in the order in which they came."""
        cdef KeptSocketEntry *entry = self.last
        found = []
        while entry != NULL:
            found.append((entry.message[:entry.size_bytes], entry.fd))
            entry = entry.next
        return found[::-1]

    cdef bint take(self, const uint8_t *message, int size_bytes, const int *fds, int fd_count) noexcept:
        """Whether the message is for these sockets; it is done then."""
        cdef int index
        if size_bytes >= 1 + LET_GO_TAG_BYTES + IDENTITY_BYTES and not memcmp(message + 1, LET_GO_TAG,
                                                                             LET_GO_TAG_BYTES):
            self.let_go(message + 1 + LET_GO_TAG_BYTES)
        elif size_bytes >= 1 + KEEP_TAG_BYTES + IDENTITY_BYTES and not memcmp(message + 1, KEEP_TAG, KEEP_TAG_BYTES):
            if fd_count == 1:   # else there was no room for it: it is not kept
                self.keep(message, size_bytes, fds[0])
                return True
        else:
            return False
        for index in range(fd_count):
            close(fds[index])
        return True

    cdef void keep(self, const uint8_t *message, int size_bytes, int fd) noexcept:
        cdef KeptSocketEntry *entry = self.last
        cdef const uint8_t *identity = message + 1 + KEEP_TAG_BYTES
        while entry != NULL:
            if not memcmp(entry.message + 1 + KEEP_TAG_BYTES, identity, IDENTITY_BYTES):
                close(fd)   # kept already
                return
            entry = entry.next
        entry = <KeptSocketEntry *>malloc(sizeof(KeptSocketEntry) + size_bytes)
        if entry == NULL:
            close(fd)
            return
        entry.next = self.last
        entry.fd = fd
        entry.size_bytes = size_bytes
        memcpy(entry.message, message, size_bytes)
        self.last = entry

    cdef bint keep_ring(self, const uint8_t *message, int size_bytes, uint32_t pid, int fd) noexcept:
        """Keep the io_uring of this process; `message` is that of any (`kept_ring`). False: there is no room."""
        cdef int index
        cdef uint8_t own_message[RING_MESSAGE_BYTES]
        if size_bytes > RING_MESSAGE_BYTES:
            return False
        memcpy(own_message, message, size_bytes)
        for index in range(4):   # the last four bytes of the identity
            own_message[1 + KEEP_TAG_BYTES + IDENTITY_BYTES - 1 - index] = <uint8_t>(pid >> 8 * index)
        self.let_go(own_message + 1 + KEEP_TAG_BYTES)   # of a process before, which had the same number
        self.keep(own_message, size_bytes, fd)
        return self.last != NULL and self.last.fd == fd

    cdef void let_go(self, const uint8_t *identity) noexcept:
        cdef KeptSocketEntry **place = &self.last
        cdef KeptSocketEntry *entry
        while place[0] != NULL:
            entry = place[0]
            if not memcmp(entry.message + 1 + KEEP_TAG_BYTES, identity, IDENTITY_BYTES):
                place[0] = entry.next
                close(entry.fd)
                free(entry)
                return
            place = &entry.next

    cdef void close_all(self) noexcept:
        """In a child, which has none of them."""
        cdef KeptSocketEntry *entry = self.last
        while entry != NULL:
            close(entry.fd)
            entry = entry.next
