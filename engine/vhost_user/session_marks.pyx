# cython: language_level=3, boundscheck=False, wraparound=False
"""What of a session must be known after SIGKILL, and is known no sooner than it happens.

Whether a reply has reached the connection can't be written down before or after it is sent: a process may
die in between. sendmmsg(2) does both: the kernel writes the number of bytes sent into the message header
before the call returns, and no signal comes between the two. So that word of the header lies in shared
memory which is kept. All other words of it, which are addresses, lie right before, in memory of this process
alone: the header crosses from one page into the next. Who else has the shared page cannot change what is sent.

The page is written to before each call and locked, so that the kernel's own write finds it in place: with a
signal to die pending it would not wait for one that has to be fetched.
"""

import os

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mlock, mmap, munmap,
)

from ringblk.shm.platform.socket_calls cimport SENT_OFFSET, iovec, mmsghdr, msghdr, send_marked
from ringblk.shm.sync.atomic cimport load_acquire_64, store_release_64
from ringblk.shm.sync.crash_point cimport crash_point

from ringblk.shm.platform.shared_memory import make_unnamed

cdef extern from * nogil:
    """
    #include <string.h>
    #include <sys/socket.h>
    #define RINGBLK_REPLY_FDS 8
    union ringblk_rights { struct cmsghdr header; char bytes[CMSG_SPACE(RINGBLK_REPLY_FDS * sizeof(int))]; };
    static void ringblk_add_rights(struct msghdr *message, union ringblk_rights *rights, const int *fds, int count) {
        message->msg_control = rights;
        message->msg_controllen = CMSG_SPACE(count * sizeof(int));
        rights->header.cmsg_level = SOL_SOCKET;
        rights->header.cmsg_type = SCM_RIGHTS;
        rights->header.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&rights->header), fds, count * sizeof(int));
    }
    """
    enum:
        MAX_REPLY_FDS "RINGBLK_REPLY_FDS"
    union ringblk_rights:
        pass
    void ringblk_add_rights(msghdr *message, ringblk_rights *rights, const int *fds, int count)

cdef struct Marks:
    uint32_t sent_bytes  # `msg_len` of the header, which the kernel writes
    uint32_t is_change_untold
    uint64_t number  # of the reply that `sent_bytes` is about

cdef size_t PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MAX_REPLY_BYTES = 2112
"""What a unix stream socket takes as a whole or not at all, however small its buffer (socket(7), unix(7)).

That is half of the least buffer, which is two of 2048 bytes with what the kernel has to say of each, less 64.
The longest reply is to GET_SHMEM_CONFIG, of 2068 bytes.
"""


cdef class SessionMarks:
    """The marks of one session. Owns `fd`, the memory that they are in."""

    cdef readonly int fd
    cdef uint8_t *_pages
    cdef Marks *_marks

    def __cinit__(self, int fd):
        self.fd = fd
        self._pages = NULL

    def __init__(self, int fd):
        cdef void *pages = mmap(NULL, 2 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if pages == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self._pages = <uint8_t *>pages
        self._marks = <Marks *>(self._pages + PAGE_BYTES)
        if mmap(self._marks, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        mlock(self._marks, PAGE_BYTES)  # where this user may not, the page has been written to a moment before

    @staticmethod
    def make():
        """Marks of a new session, which say nothing yet. Raises `OSError`."""
        # Sealed: who keeps it cannot take away what this process looks at.
        fd = make_unnamed("ringblk-session", PAGE_BYTES, is_sealed=True)
        try:
            return SessionMarks(fd)
        except BaseException:
            os.close(fd)
            raise

    def __dealloc__(self):
        if self._pages != NULL:
            munmap(self._pages, 2 * PAGE_BYTES)

    @property
    def is_change_untold(self):
        """Whether the front end may still have to be told of a change of the config space."""
        return bool(self._marks.is_change_untold)

    @is_change_untold.setter
    def is_change_untold(self, bint is_untold):
        self._marks.is_change_untold = is_untold

    def send(self, int socket_fd, uint64_t number, data, fds):
        """Send reply `number` over a unix stream socket, whole, and mark it as sent; its size.

        Replies are numbered upwards, from 1 on. Raises `OSError` where it was not sent: `BlockingIOError` while
        there is no room.
        """
        cdef bytes whole = bytes(data)
        cdef mmsghdr *entry = <mmsghdr *>(<uint8_t *>self._marks - SENT_OFFSET)
        cdef iovec part
        cdef ringblk_rights rights
        cdef int[MAX_REPLY_FDS] numbers
        cdef int count = len(fds), index, sent
        assert self._pages != NULL and len(whole) <= MAX_REPLY_BYTES and count <= MAX_REPLY_FDS
        memset(entry, 0, SENT_OFFSET)
        part.iov_base = <char *>whole
        part.iov_len = len(whole)
        entry.msg_hdr.msg_iov = &part
        entry.msg_hdr.msg_iovlen = 1
        if count:
            memset(&rights, 0, sizeof(rights))
            for index in range(count):
                numbers[index] = fds[index]
            ringblk_add_rights(&entry.msg_hdr, &rights, numbers, count)
        entry.msg_len = 0
        # Release: pairs with the acquire in `was_sent`. The number is there after the zero that it is about.
        store_release_64(&self._marks.number, number)
        crash_point("reply: about to be sent")
        sent = send_marked(socket_fd, entry)
        if sent < 0:
            raise OSError(errno, os.strerror(errno))
        crash_point("reply: marked as sent")
        assert entry.msg_len == len(whole), "a reply was sent in part"
        return entry.msg_len

    def was_sent(self, uint64_t number):
        """Whether this reply was sent, by this process or one before it."""
        # Acquire: pairs with the release in `send`.
        return load_acquire_64(&self._marks.number) == number and self._marks.sent_bytes != 0

    def close(self):
        """Close the memory. May be called again."""
        if self._pages != NULL:
            munmap(self._pages, 2 * PAGE_BYTES)
            self._pages = NULL
            os.close(self.fd)
