# libraries: nbd
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Connecting and shaking hands where the connection is encrypted, by Python's ssl.

libnbd has TLS of its own, which it would have to keep: no socket could be taken from it.
"""

import socket
from functools import partial

from libc.errno cimport EINPROGRESS, EIO, EPROTO, errno
from libc.stdint cimport uint16_t, uint32_t

from ringblk.workers.nbd.handshake cimport Handshake

from ringblk.workers.nbd.negotiation import NotServed, farewell, negotiate, read_once
from ringblk.workers.nbd.tls_connecting import TlsConnecting, describe_failure
from ringblk.workers.nbd.tls_files import make_context
from ringblk.workers.nbd.tls_session import TlsSession

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    ctypedef unsigned int socklen_t
    int connect(int fd, const sockaddr *address, socklen_t size)


cdef class TlsHandshake(Handshake):
    """As `Handshake`, with these files (`TlsFiles`). Made before the sandbox."""

    def __init__(self, bytes export_name, files):
        Handshake.__init__(self, export_name)
        self.context = make_context(files)
        self.hostname = files.choice.hostname
        self.converse = partial(negotiate, export_name)
        # What Python and OpenSSL look for when they are first asked, the codec of host names for one.
        self.make_session().shake_hands()

    def look(self, bytes address, double timeout_s):
        """As `Handshake.look`."""
        try:
            self.wait(address, timeout_s)
            self._take_leave()
            return self.connecting.found
        finally:
            self.drop()

    def read(self, bytes address, offset_bytes, length_bytes, double timeout_s):
        """As `Handshake.read`."""
        data = bytearray(length_bytes)
        usual = self.converse
        self.converse = partial(_converse_reading, self.export_name, offset_bytes, data)
        try:
            self.wait(address, timeout_s)
            self._take_leave()
            return bytes(data)
        finally:
            self.converse = usual
            self.drop()

    def _take_leave(self):
        self.connecting.session.say(farewell())
        self.connecting.go_on()

    def fault_text(self):
        return self.fault

    cdef int begin(self, const char *sockaddr_, uint32_t sockaddr_bytes) noexcept nogil:
        cdef uint16_t family = (<const uint16_t *>sockaddr_)[0]
        cdef int fd
        self.drop()
        with gil:
            self.fault = ""
            try:
                end = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                fd = end.fileno()
                self.connecting = TlsConnecting(end, self.converse, self.make_session)
            except Exception as error:
                return self._fail(error)
        if connect(fd, <const sockaddr *>sockaddr_, sockaddr_bytes) < 0 and errno != EINPROGRESS:
            return -errno
        return 0

    def make_session(self):
        """For an attempt whose server offers TLS."""
        return TlsSession(self.context, self.hostname)

    cdef int fd(self) noexcept nogil:
        with gil:
            return -1 if self.connecting is None else self.connecting.fileno()

    cdef uint32_t wanted_events(self) noexcept nogil:
        with gil:
            return self.connecting.wanted_events

    cdef int go_on(self, uint32_t events) noexcept nogil:
        with gil:
            try:
                if not self.connecting.go_on():
                    return 0
                self._note_facts(self.connecting.found)
            except Exception as error:
                return self._fail(error)
        return 1

    def _note_facts(self, found):
        self.facts.size_bytes, self.facts.maximum_bytes = found.size_bytes, found.maximum_bytes
        self.facts.minimum_bytes, self.facts.preferred_bytes = found.minimum_bytes, found.preferred_bytes
        self.facts.is_read_only, self.facts.can_flush = found.is_read_only, found.can_flush
        self.facts.can_fua, self.facts.can_trim, self.facts.can_zero = found.can_fua, found.can_trim, found.can_zero
        self.facts.can_multi_conn = found.can_multi_conn

    def _fail(self, error):
        """A negative errno, and the reason in `fault`."""
        self.fault = describe_failure(error)
        if isinstance(error, NotServed) or not isinstance(error, OSError) or (error.errno or 0) <= 0:
            return -EPROTO
        return -error.errno if type(error).__module__ != "ssl" else -EPROTO

    cdef int take_socket(self) noexcept nogil:
        cdef int fd
        with gil:
            try:
                self.session = self.connecting.session
                fd = self.connecting.take_socket()
                self.connecting = None
            except Exception:
                return -EIO
        return fd

    cdef object take_session(self):
        """Of the connection whose socket was taken."""
        session, self.session = self.session, None
        return session

    cdef void drop(self) noexcept nogil:
        with gil:
            if self.connecting is not None:
                self.connecting.close()
                self.connecting = None


def _converse_reading(export_name, offset_bytes, data, say):
    return read_once(export_name, say, offset_bytes, data)
