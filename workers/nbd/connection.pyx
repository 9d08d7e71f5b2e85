# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One connection to an NBD server through its life: it is made, shakes hands, is used, is lost, is made again."""

import socket

from libc.errno cimport EBUSY, EIO
from posix.unistd cimport close

from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.nbd.ledger cimport begin_connection

cdef extern from "<sys/socket.h>" nogil:
    enum: SHUT_RDWR
    int shutdown(int fd, int how)

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum: EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)

cdef enum:
    FIRST_DELAY_NS = 20000000       # between attempts
    LONGEST_DELAY_NS = 1000000000
    MOST_DOUBLINGS = 6

KEEPALIVE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 10, 5, 3
"""A host that is gone is noticed after half a minute without a word from it."""


cdef class Connection:
    """In place `index` of the ledger; `mailbox` is its own.

    It is watched in `epoll_fd` under `index`. `note(is_ready, error, fault)` is called when it has come to be ready, and
    when it has been lost or the first attempt after that has failed.
    """

    def __init__(self, Ledger ledgers, int index, mailbox, Handshake handshake, Transmission transmission, addresses,
                 int epoll_fd, note):
        self.ledgers = ledgers
        self.index = index
        self.mailbox = mailbox
        self.handshake = handshake
        self.addresses = tuple(addresses)
        self.epoll_fd = epoll_fd
        self.note = note
        self.transmission = transmission
        self.state = CONNECTION_DOWN

    cdef bint is_due(self, uint64_t now_ns) noexcept nogil:
        """Whether it is time for another attempt."""
        return self.state == CONNECTION_DOWN and self.attempt_ns <= now_ns

    cdef bint has_unsent(self) noexcept nogil:
        """Whether something is to be sent through it."""
        return self.state == CONNECTION_READY and self.transmission.sent_bytes != self.transmission.queued_bytes

    cdef void attempt(self, uint64_t now_ns) noexcept nogil:
        """Begin to connect."""
        cdef int result
        if self.down_ns == 0:
            self.down_ns = now_ns
        result = self._connect()
        if result < 0:
            self._end_attempt(result, now_ns)
            return
        self.state = CONNECTION_BEGINNING
        self.watched_events = self.handshake.wanted_events()
        self._watch(self.handshake.fd(), EPOLL_CTL_ADD, self.watched_events)

    cdef int _connect(self) noexcept nogil:
        with gil:
            address = self.addresses[self.address_index % len(self.addresses)]
            self.address_index += 1
            return self.handshake.begin(address, <uint32_t>len(address))

    cdef void see(self, uint32_t events, bint has_other, uint64_t now_ns) noexcept nogil:
        """epoll says this of a connection that is being made. `has_other`: another connection of the drive is used."""
        cdef int result
        cdef uint32_t wanted_events
        result = self.handshake.go_on(events)
        if result > 0 and has_other and not self.handshake.facts.can_multi_conn:
            result = -EBUSY   # a flush through one would not be for what was written through the other
        if result > 0:
            self._watch(self.handshake.fd(), EPOLL_CTL_DEL, 0)
            result = self._take_over()
            if result == 0:
                self.state = CONNECTION_READY
                self.down_ns = 0
                self.attempt_count = 0
                self.watched_events = EPOLLIN
                self._watch(self.transmission.fd, EPOLL_CTL_ADD, EPOLLIN)
                self._note(True, 0, False)
                return
        if result < 0:
            self._end_attempt(result, now_ns)
            return
        wanted_events = self.handshake.wanted_events()
        if wanted_events != self.watched_events:
            self.watched_events = wanted_events
            self._watch(self.handshake.fd(), EPOLL_CTL_MOD, wanted_events)

    cdef int _take_over(self) noexcept nogil:
        """The handshake is done: have the socket kept, and use it."""
        cdef int fd = self.handshake.take_socket()
        if fd < 0:
            return fd
        begin_connection(&self.ledgers.connections[self.index])
        crash_point("nbd: ledger begun")
        with gil:
            try:
                self.mailbox.put(self.ledgers.connections[self.index].generation, fd)
                keep_alive(fd)
            except OSError as error:
                close(fd)
                return -(error.errno or EIO)
        crash_point("nbd: socket kept")
        self.transmission.begin(fd)
        return 0

    cdef void watch(self) noexcept nogil:
        """Look for what it needs now: room to send, if the socket has had none."""
        cdef uint32_t events = EPOLLIN | (EPOLLOUT if self.transmission.wants_write else 0)
        if events != self.watched_events:
            self.watched_events = events
            self._watch(self.transmission.fd, EPOLL_CTL_MOD, events)

    cdef void lose(self, int error, uint64_t now_ns) noexcept nogil:
        """It is of no use any more; what was not answered stays the transmission's, for `give_back`."""
        self._watch(self.transmission.fd, EPOLL_CTL_DEL, 0)
        shutdown(self.transmission.fd, SHUT_RDWR)   # the mailbox has it, too
        close(self.transmission.fd)
        self.state = CONNECTION_DOWN
        self.down_ns = now_ns
        self.attempt_ns = now_ns      # at once, the first time
        self.error = error
        self._note(False, error, False)

    cdef void _end_attempt(self, int error, uint64_t now_ns) noexcept nogil:
        self.handshake.drop()
        self.state = CONNECTION_DOWN
        self.attempt_ns = now_ns + min(<uint64_t>LONGEST_DELAY_NS,
                                       <uint64_t>FIRST_DELAY_NS << min(self.attempt_count, <uint32_t>MOST_DOUBLINGS))
        if self.attempt_count == 0 or error != self.error:
            self._note(False, error, True)
        self.attempt_count += 1
        self.error = error

    cdef void _note(self, bint is_ready, int error, bint is_of_handshake) noexcept nogil:
        with gil:
            self.note(is_ready, -error, self.handshake.fault if is_of_handshake else "")

    cdef void _watch(self, int fd, int how, uint32_t events) noexcept nogil:
        cdef epoll_event event
        event.events = events
        event.data.u32 = <uint32_t>self.index
        epoll_ctl(self.epoll_fd, how, fd, &event)


def keep_alive(fd):
    """Have the kernel notice that the other host is gone. Nothing for a unix socket."""
    end = socket.socket(fileno=fd)
    try:
        if end.family != socket.AF_UNIX:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT,
                           1000 * (KEEPALIVE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_COUNT))
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    finally:
        end.detach()
