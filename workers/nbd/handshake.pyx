# libraries: nbd
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Connecting to an NBD server and shaking hands, by libnbd, without waiting for either.

Once both sides are done with that, the socket is taken from it (transmission.pyx).
"""

import os
import select
import time

from libc.errno cimport EIO, EPROTO, ETIMEDOUT
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ringblk.workers.nbd.export import ExportFound

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    ctypedef unsigned int socklen_t

cdef extern from "<fcntl.h>" nogil:
    enum: F_DUPFD_CLOEXEC
    int fcntl(int fd, int command, int argument)

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "<libnbd.h>" nogil:
    """
    /* Later versions ask for these by themselves; the transmission does not know them. */
    #ifdef LIBNBD_HAVE_NBD_SET_REQUEST_EXTENDED_HEADERS
    #define leave_extended_headers(h) nbd_set_request_extended_headers((h), false)
    #else
    #define leave_extended_headers(h) 0
    #endif
    """
    enum:
        LIBNBD_SIZE_MINIMUM
        LIBNBD_SIZE_PREFERRED
        LIBNBD_SIZE_MAXIMUM
        LIBNBD_AIO_DIRECTION_READ
        LIBNBD_AIO_DIRECTION_WRITE
    nbd_handle *nbd_create()
    void nbd_close(nbd_handle *h)
    const char *nbd_get_error()
    int nbd_get_errno()
    int leave_extended_headers(nbd_handle *h)
    int nbd_set_export_name(nbd_handle *h, const char *name)
    int nbd_aio_connect(nbd_handle *h, const sockaddr *address, socklen_t size)
    int nbd_aio_get_fd(nbd_handle *h)
    unsigned int nbd_aio_get_direction(nbd_handle *h)
    int nbd_aio_notify_read(nbd_handle *h)
    int nbd_aio_notify_write(nbd_handle *h)
    int nbd_aio_is_ready(nbd_handle *h)
    int nbd_shutdown(nbd_handle *h, uint32_t flags)
    int nbd_pread(nbd_handle *h, void *buffer, size_t count, uint64_t offset, uint32_t flags)
    int64_t nbd_get_size(nbd_handle *h)
    int64_t nbd_get_block_size(nbd_handle *h, int kind)
    int nbd_is_read_only(nbd_handle *h)
    int nbd_can_flush(nbd_handle *h)
    int nbd_can_fua(nbd_handle *h)
    int nbd_can_trim(nbd_handle *h)
    int nbd_can_zero(nbd_handle *h)
    int nbd_can_multi_conn(nbd_handle *h)

cdef enum:
    MAXIMUM_BYTES = 1 << 25   # of a request, where the server says nothing (doc/proto.md: 32 MiB)


cdef class Handshake:
    """With the server of one export, again and again. `export_name` is empty for a server's default export."""

    def __init__(self, bytes export_name):
        self.export_name = export_name
        self.name = export_name   # where the bytes are
        self.fault = ""

    def __dealloc__(self):
        nbd_close(self.handle)

    def look(self, bytes address, double timeout_s):
        """Connect, and end the connection once the server has said what there is (`ExportFound`). Raises `OSError`."""
        try:
            self.wait(address, timeout_s)
            nbd_shutdown(self.handle, 0)
            return self.found()
        finally:
            self.drop()

    def read(self, bytes address, uint64_t offset_bytes, uint64_t length_bytes, double timeout_s):
        """Connect, and read so many bytes. Raises `OSError`."""
        cdef bytearray data = bytearray(length_bytes)
        try:
            self.wait(address, timeout_s)
            if nbd_pread(self.handle, <char *>data, length_bytes, offset_bytes, 0) < 0:
                raise OSError(nbd_get_errno() or EIO, last_error())
            return bytes(data)
        finally:
            self.drop()

    def wait(self, bytes address, double timeout_s):
        """Connect, and wait for the end of the handshake. Raises `OSError`."""
        cdef int result = self.begin(address, <uint32_t>len(address))
        end_s = time.monotonic() + timeout_s
        with select.epoll() as looking:
            while result == 0:
                looking.register(self.fd(), self.wanted_events())
                events = looking.poll(max(0, end_s - time.monotonic()))
                if not events:
                    raise OSError(ETIMEDOUT, f"no answer within {timeout_s:g} s")
                looking.unregister(self.fd())
                result = self.go_on(events[0][1])
        if result < 0:
            raise OSError(-result, self.fault_text() or os.strerror(-result))

    def fault_text(self):
        """Why the call that has just failed did so, for people."""
        return last_error()

    def found(self):
        """What the server said last (`ExportFound`)."""
        cdef ExportFacts *facts = &self.facts
        return ExportFound(
            size_bytes=facts.size_bytes,
            minimum_bytes=facts.minimum_bytes,
            preferred_bytes=facts.preferred_bytes,
            maximum_bytes=facts.maximum_bytes,
            is_read_only=facts.is_read_only,
            can_flush=facts.can_flush,
            can_fua=facts.can_fua,
            can_trim=facts.can_trim,
            can_zero=facts.can_zero,
            can_multi_conn=facts.can_multi_conn,
        )

    cdef int begin(self, const char *sockaddr_, uint32_t sockaddr_bytes) noexcept nogil:
        """Begin to connect to this address: 0, or a negative errno. Nothing is waited for."""
        cdef int result = 0
        self.drop()
        self.handle = nbd_create()
        if self.handle == NULL:
            return _failure()
        result = self._set_up()
        if result == 0 and nbd_aio_connect(self.handle, <const sockaddr *>sockaddr_, sockaddr_bytes) < 0:
            result = _failure()
        return result

    cdef int _set_up(self) noexcept nogil:
        if nbd_set_export_name(self.handle, self.name) < 0 \
                or leave_extended_headers(self.handle) < 0:
            return _failure()
        return 0

    cdef int fd(self) noexcept nogil:
        """The socket, while it is libnbd's; -1: there is none."""
        return -1 if self.handle == NULL else nbd_aio_get_fd(self.handle)

    cdef uint32_t wanted_events(self) noexcept nogil:
        """What epoll is to look for before `go_on`."""
        cdef unsigned int direction = nbd_aio_get_direction(self.handle)
        cdef uint32_t events = EPOLLIN if direction & LIBNBD_AIO_DIRECTION_READ else 0
        return events | (EPOLLOUT if direction & LIBNBD_AIO_DIRECTION_WRITE else 0)

    cdef int go_on(self, uint32_t events) noexcept nogil:
        """epoll says this: 1: the handshake is done; 0: more is to come; a negative errno: it has failed."""
        cdef unsigned int direction = nbd_aio_get_direction(self.handle)
        if events & (EPOLLIN | EPOLLERR | EPOLLHUP) and direction & LIBNBD_AIO_DIRECTION_READ:
            if nbd_aio_notify_read(self.handle) < 0:
                return _failure()
        elif events & (EPOLLOUT | EPOLLERR | EPOLLHUP) and direction & LIBNBD_AIO_DIRECTION_WRITE:
            if nbd_aio_notify_write(self.handle) < 0:
                return _failure()
        if nbd_aio_is_ready(self.handle) <= 0:
            return 0
        return 1 if self._read_facts() == 0 else -EPROTO

    cdef int _read_facts(self) noexcept nogil:
        cdef ExportFacts *facts = &self.facts
        cdef int64_t size_bytes = nbd_get_size(self.handle)
        cdef int64_t maximum_bytes = nbd_get_block_size(self.handle, LIBNBD_SIZE_MAXIMUM)
        if size_bytes < 0:
            return -EPROTO
        facts.size_bytes = <uint64_t>size_bytes
        facts.minimum_bytes = <uint64_t>max(nbd_get_block_size(self.handle, LIBNBD_SIZE_MINIMUM), <int64_t>1)
        facts.preferred_bytes = <uint64_t>max(nbd_get_block_size(self.handle, LIBNBD_SIZE_PREFERRED), <int64_t>0)
        facts.maximum_bytes = min(<uint64_t>MAXIMUM_BYTES, <uint64_t>maximum_bytes) if maximum_bytes > 0 else MAXIMUM_BYTES
        facts.is_read_only = nbd_is_read_only(self.handle) > 0
        facts.can_flush = nbd_can_flush(self.handle) > 0
        facts.can_fua = nbd_can_fua(self.handle) > 0
        facts.can_trim = nbd_can_trim(self.handle) > 0
        facts.can_zero = nbd_can_zero(self.handle) > 0
        facts.can_multi_conn = nbd_can_multi_conn(self.handle) > 0
        return 0

    cdef int take_socket(self) noexcept nogil:
        """The socket of a handshake that is done, the caller's from now on; or a negative errno."""
        cdef int fd = fcntl(nbd_aio_get_fd(self.handle), F_DUPFD_CLOEXEC, 3)
        self.drop()
        return fd if fd >= 0 else -EIO

    cdef void drop(self) noexcept nogil:
        """Let go of a connection that is not wanted any more."""
        nbd_close(self.handle)
        self.handle = NULL


cdef int _failure() noexcept nogil:
    """What libnbd says of the call that has just failed."""
    cdef int error = nbd_get_errno()
    return -error if error > 0 else -EIO


def last_error():
    """The message of the call that has just failed in this thread."""
    cdef const char *text = nbd_get_error()
    return "" if text == NULL else text.decode(errors="replace")
