# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A process's line to the fetcher: it asks for a range and waits until that is in the cache.

The fetcher may die at any moment, and another one takes its place at the same socket: whoever has asked asks that one.
Nothing is lost with a line, since a request is only a wish.
"""

from libc.errno cimport EAGAIN, EINTR, EIO, ETIMEDOUT, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from posix.time cimport nanosleep, timespec
from posix.uio cimport iovec
from posix.unistd cimport close as close_fd, getpid

from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.workers.fetch.wire cimport FETCH_BYTES, FETCH_READ, FetchReply, FetchRequest

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <poll.h>
    #include <sys/socket.h>
    #include <sys/un.h>
    #include <unistd.h>
    static inline int ringblk_wait_input(int fd, int milliseconds)
        { struct pollfd look = {fd, POLLIN, 0}; return poll(&look, 1, milliseconds); }
    """
    enum: AF_UNIX, SOCK_STREAM, F_SETFD, FD_CLOEXEC
    cdef struct sockaddr:
        pass
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[104]
    int socket(int domain, int kind, int protocol)
    int connect(int fd, const sockaddr *address, unsigned int length)
    int fcntl(int fd, int command, int value)
    ssize_t read_some "read"(int fd, void *buffer, size_t length)
    ssize_t write_some "write"(int fd, const void *buffer, size_t length)
    int wait_input "ringblk_wait_input"(int fd, int milliseconds)

cdef enum:
    PAUSE_NS = 20000000       # between two attempts to find a fetcher
    LOOK_MS = 1000            # so often is a wait looked at that may have to end

cdef uint64_t FOR_EVER = <uint64_t>-1


cdef class FetchLine:
    """To the fetcher whose socket is at `path`, for the content `layer_id`. It connects when it is used first.

    One thread uses it. What has to wait longer than `patience_ns` fails with ETIMEDOUT.
    """

    def __init__(self, str path, bytes layer_id, uint64_t patience_ns):
        cdef sockaddr_un address
        self._path = path.encode()
        self.path = self._path
        if <size_t>len(self._path) >= sizeof(address.sun_path):
            raise ValueError(f"{path}: is too long for a socket")
        self.fd = -1
        memcpy(self.layer_id, <const char *>layer_id, 16)
        self.patience_ns = patience_ns

    def __dealloc__(self):
        if self.fd >= 0 and self.pid == getpid():
            close_fd(self.fd)

    def close(self):
        """Hang up."""
        self.hang_up()

    cdef void hang_up(self) noexcept nogil:
        if self.fd >= 0:
            close_fd(self.fd)
            self.fd = -1

    cdef int fetch(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        """Have a range fetched: 0, or a negative errno. Whether it is in the cache then, the map says."""
        cdef bint has_bytes
        return self._ask(offset_bytes, length_bytes, False, NULL, 0, &has_bytes)

    cdef int read(self, const iovec *ranges, int range_count, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        """Have the bytes of a range themselves, which the cache has no room for: 0, or a negative errno."""
        cdef bint has_bytes = False
        cdef int result = self._ask(offset_bytes, length_bytes, True, ranges, range_count, &has_bytes)
        return result if result < 0 or has_bytes else -EIO

    cdef int _ask(self, uint64_t offset_bytes, uint64_t length_bytes, bint wants_bytes, const iovec *ranges,
                  int range_count, bint *has_bytes) noexcept nogil:
        """Ask until there is an answer, of whichever fetcher."""
        cdef uint64_t until_ns = FOR_EVER
        cdef timespec pause
        cdef int result
        if self.patience_ns != FOR_EVER:
            until_ns = monotonic_ns() + self.patience_ns
        while True:
            result = self._try(offset_bytes, length_bytes, wants_bytes, ranges, range_count, has_bytes, until_ns)
            if result == -EAGAIN or result == -ETIMEDOUT:   # an answer may be owed on this line
                self.hang_up()
            if result != -EAGAIN:
                return result
            if monotonic_ns() >= until_ns:
                return -ETIMEDOUT
            pause.tv_sec, pause.tv_nsec = 0, PAUSE_NS
            nanosleep(&pause, NULL)

    cdef int _try(self, uint64_t offset_bytes, uint64_t length_bytes, bint wants_bytes, const iovec *ranges,
                  int range_count, bint *has_bytes, uint64_t until_ns) noexcept nogil:
        """Ask once; -EAGAIN: there is no fetcher, or it went away."""
        cdef FetchRequest request
        cdef FetchReply reply
        cdef int result, index
        if self.fd >= 0 and self.pid != getpid():
            self.fd = -1   # the parent's: this process was forked since
        if self.fd < 0 and not self._connect():
            return -EAGAIN
        request.kind = FETCH_READ
        request.flags = FETCH_BYTES if wants_bytes else 0
        memcpy(request.layer_id, self.layer_id, 16)
        request.offset_bytes, request.length_bytes = offset_bytes, length_bytes
        if not send_all(self.fd, <const uint8_t *>&request, sizeof(request)):
            return -EAGAIN
        result = receive_all(self.fd, <uint8_t *>&reply, sizeof(reply), until_ns)
        if result < 0:
            return result
        has_bytes[0] = reply.flags & FETCH_BYTES
        if not has_bytes[0]:
            return reply.status
        if not wants_bytes or reply.length_bytes != length_bytes:
            return -EAGAIN   # no answer to what was asked: ask anew, on another line
        for index in range(range_count):
            result = receive_all(self.fd, <uint8_t *>ranges[index].iov_base, ranges[index].iov_len, until_ns)
            if result < 0:
                return result
        return reply.status

    cdef bint _connect(self) noexcept nogil:
        cdef sockaddr_un address
        self.fd = socket(AF_UNIX, SOCK_STREAM, 0)
        if self.fd < 0:
            return False
        self.pid = getpid()
        fcntl(self.fd, F_SETFD, FD_CLOEXEC)
        memset(&address, 0, sizeof(address))
        address.sun_family = AF_UNIX
        memcpy(address.sun_path, self.path, strlen(self.path))
        if connect(self.fd, <const sockaddr *>&address, sizeof(address)) != 0:
            self.hang_up()
            return False
        return True


cdef bint send_all(int fd, const uint8_t *data, size_t length_bytes) noexcept nogil:
    """SIGPIPE is ignored: Python sees to that."""
    cdef ssize_t count
    while length_bytes:
        count = write_some(fd, data, length_bytes)
        if count < 0 and errno == EINTR:
            continue
        if count <= 0:
            return False
        data += count
        length_bytes -= <size_t>count
    return True


cdef int receive_all(int fd, uint8_t *data, size_t length_bytes, uint64_t until_ns) noexcept nogil:
    """0; -EAGAIN where the other end has gone, -ETIMEDOUT."""
    cdef ssize_t count
    while length_bytes:
        if until_ns != FOR_EVER:
            if monotonic_ns() >= until_ns:
                return -ETIMEDOUT
            if wait_input(fd, LOOK_MS) == 0:
                continue
        count = read_some(fd, data, length_bytes)
        if count < 0 and errno == EINTR:
            continue
        if count <= 0:
            return -EAGAIN
        data += count
        length_bytes -= <size_t>count
    return 0
