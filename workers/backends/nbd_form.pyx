# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The asynchronous form of an NBD export: many requests under way on one connection or several.

What no connection can take waits, while there is none too: then what was not answered is sent again through the
next. After `reconnect_s` without any, all that waits fails, and so does what comes, until there is one again.
"""

import logging
import os

from libc.errno cimport EIO, EPROTO
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close, read, write

from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.workers.nbd.command cimport append, take_first
from ringblk.workers.nbd.connection cimport CONNECTION_BEGINNING, CONNECTION_DOWN, CONNECTION_READY
from ringblk.workers.nbd.ledger cimport LEDGER_DEPTH, DriveLedger

from ringblk.workers.nbd.parts import make_parts

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec

cdef extern from "<sys/timerfd.h>" nogil:
    struct itimerspec:
        timespec it_interval
        timespec it_value
    enum: CLOCK_MONOTONIC, TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *value, itimerspec *former)

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum: EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll_fd, epoll_event *events, int count, int timeout_ms)

cdef enum:
    TIMER_MARK = 1000         # in place of a connection's index
    LOOK_NS = 1000000         # how often idle connections are looked at while others are busy
    SECTOR_BYTES = 512
    BATCH = 8                 # commands that one connection gets before another has any

cdef uint64_t NEVER_NS = <uint64_t>-1

_log = logging.getLogger(__name__)


cdef class NbdForm(AsyncForm):
    """Of an export (`NbdExport`), over as many connections as there are mailboxes, encrypted with `files` or not.

    Connecting begins at once, and nobody waits for it.
    """

    def __init__(self, export, Ledger ledgers, mailboxes, int news_fd, reconnect_s, files):
        cdef epoll_event event
        cdef Connection connection
        self.requests = NbdRequests(export.found)
        self.ledgers = ledgers
        self.news_fd = news_fd
        self.ledgers.drive.request_count = 0
        self.reconnect_ns = NEVER_NS if reconnect_s is None else <uint64_t>(reconnect_s * 1e9)
        self.ready_fd = epoll_create1(EPOLL_CLOEXEC)
        self.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        event.events = EPOLLIN
        event.data.u32 = TIMER_MARK
        if self.ready_fd < 0 or epoll_ctl(self.ready_fd, EPOLL_CTL_ADD, self.timer_fd, &event) < 0:
            raise OSError(EIO, "no epoll or timer for the connections")
        self.connections = []
        now_ns = monotonic_ns()
        self._note_state(0, now_ns)
        for index, mailbox in enumerate(mailboxes):
            handshake, transmission = make_parts(export, ledgers, index, files)
            connection = Connection(ledgers, index, mailbox, handshake, transmission, export.addresses, self.ready_fd,
                                    ConnectionNotes(export.uri_text, index))
            self.connections.append(connection)
            self.connection[index] = <void *>connection
            self.connection_count += 1
            connection.attempt(now_ns)
        self._set_timer(now_ns)

    def __dealloc__(self):
        close(self.timer_fd)
        close(self.ready_fd)

    # The form

    cdef int begin(self, const StorageRequest *request) noexcept nogil:
        if self._is_given_up(monotonic_ns()):
            return -EIO
        return self.requests.begin(request)

    cdef bint submit(self) noexcept nogil:
        self._give_out()
        self._send()
        self.ledgers.drive.request_count = self.requests.under_way
        if self.requests.waiting.first != NULL:
            self._set_timer(monotonic_ns())
        return False

    cdef bint has_outcomes(self) noexcept nogil:
        return self.requests.has_outcomes()

    cdef bint reap(self, StorageOutcome *outcome) noexcept nogil:
        cdef uint64_t now_ns
        if not self.requests.has_outcomes():
            if self.under_way:
                self._receive()
            now_ns = monotonic_ns()
            if not self.requests.has_outcomes():
                if now_ns - self.looked_ns > LOOK_NS:
                    self._look(now_ns)
                elif not self.is_look_due:   # who watches `ready_fd` may be told once of what there is to see
                    self.is_look_due = True
                    self._set_timer(now_ns)
            self._give_out()
            self._send()
        if self.requests.take_outcome(outcome):
            return True
        self.ledgers.drive.request_count = self.requests.under_way
        return False

    # Connections

    cdef void _give_out(self) noexcept nogil:
        """Give what waits to connections, as far as they have room."""
        cdef uint32_t best
        while self.requests.waiting.first != NULL:
            best = self._least_busy()
            if best == self.connection_count:
                return
            (<Connection>self.connection[best]).transmission.queue_command(take_first(&self.requests.waiting))
            self.under_way += 1

    cdef uint32_t _least_busy(self) noexcept nogil:
        """The index of a connection that has room; how many there are, if none has."""
        cdef uint32_t index, load, free_count, least = LEDGER_DEPTH, best = self.connection_count
        for index in range(self.connection_count):
            free_count = (<Connection>self.connection[index]).transmission.free_count
            load = (LEDGER_DEPTH - free_count) // BATCH
            if (<Connection>self.connection[index]).state == CONNECTION_READY and free_count and load < least:
                least, best = load, index
        return best

    cdef void _send(self) noexcept nogil:
        cdef uint32_t index
        for index in range(self.connection_count):
            if (<Connection>self.connection[index]).has_unsent():
                self._send_through(<Connection>self.connection[index])

    cdef void _send_through(self, Connection connection) noexcept nogil:
        cdef int result = connection.transmission.send()
        if result < 0:
            self._lose(connection, result)
        else:
            connection.watch()

    cdef void _receive(self) noexcept nogil:
        """Take the answers that have come."""
        cdef uint32_t index
        for index in range(self.connection_count):
            if (<Connection>self.connection[index]).transmission.has_commands():
                self._receive_from(<Connection>self.connection[index])

    cdef void _receive_from(self, Connection connection) noexcept nogil:
        cdef int result = connection.transmission.receive()
        cdef NbdCommand *command = take_first(&connection.transmission.done)
        while command != NULL:
            self.under_way -= 1
            self.requests.end_command(command)
            command = take_first(&connection.transmission.done)
        if result < 0:
            self._lose(connection, result)

    cdef void _lose(self, Connection connection, int error) noexcept nogil:
        """What it had waits for the next; where the server says what is no NBD, it fails."""
        cdef CommandList left
        cdef NbdCommand *command
        connection.lose(error, monotonic_ns())
        left.first = left.last = NULL
        connection.transmission.give_back(&left)
        command = take_first(&left)
        while command != NULL:
            self.under_way -= 1
            if error == -EPROTO:
                command.error = -EIO
                self.requests.end_command(command)
            else:
                append(&self.requests.waiting, command)
            command = take_first(&left)
        self._note_state(error, monotonic_ns())
        self._set_timer(monotonic_ns())
        self.looked_ns = 0

    cdef void _note_made(self, Connection connection, uint64_t now_ns) noexcept nogil:
        """A connection stands: take note of what the server has said, and tell of another size."""
        cdef uint64_t size_bytes = connection.handshake.facts.size_bytes, one = 1
        self._note_state(0, now_ns)
        size_bytes -= size_bytes % SECTOR_BYTES
        if size_bytes != self.ledgers.drive.size_bytes:
            self.ledgers.drive.size_bytes = size_bytes
            write(self.news_fd, &one, sizeof(one))

    cdef bint _has_other(self, Connection connection) noexcept nogil:
        """Whether another connection is used."""
        cdef uint32_t index
        for index in range(self.connection_count):
            if self.connection[index] != <void *>connection and (<Connection>self.connection[index]).state == CONNECTION_READY:
                return True
        return False

    cdef void _note_state(self, int error, uint64_t now_ns) noexcept nogil:
        """Say how many connections there are, for whoever asks; a negative errno says why one is not."""
        cdef DriveLedger *drive = self.ledgers.drive
        cdef uint32_t index, ready_count = 0
        for index in range(self.connection_count):
            ready_count += (<Connection>self.connection[index]).state == CONNECTION_READY
        if drive.changed_ns == 0 or (ready_count == 0) != (drive.ready_count == 0):
            drive.changed_ns = now_ns
        drive.ready_count = ready_count
        if error:
            drive.error = -error

    cdef void _look(self, uint64_t now_ns) noexcept nogil:
        """See to connections that are being made, that have ended, and to those for which it is time."""
        cdef epoll_event events[CONNECTION_LIMIT + 1]
        cdef uint64_t expired_count
        cdef uint32_t index
        cdef int place, count = epoll_wait(self.ready_fd, events, CONNECTION_LIMIT + 1, 0)
        self.looked_ns = now_ns
        self.is_look_due = False
        for place in range(count):
            if events[place].data.u32 == TIMER_MARK:
                read(self.timer_fd, &expired_count, sizeof(expired_count))
                self.timer_ns = 0
            else:
                self._see(<Connection>self.connection[events[place].data.u32], events[place].events, now_ns)
        for index in range(self.connection_count):
            if (<Connection>self.connection[index]).is_due(now_ns):
                (<Connection>self.connection[index]).attempt(now_ns)
            if (<Connection>self.connection[index]).state != CONNECTION_READY:
                self.looked_ns = 0   # there is more to see than what reading would find
        if self._is_given_up(now_ns):
            self.requests.fail_waiting(-EIO)
        self._set_timer(now_ns)

    cdef void _see(self, Connection connection, uint32_t events, uint64_t now_ns) noexcept nogil:
        """epoll says this of a connection."""
        if connection.state == CONNECTION_BEGINNING:
            connection.see(events, self._has_other(connection), now_ns)
            if connection.state == CONNECTION_READY:
                self._note_made(connection, now_ns)
            elif connection.state == CONNECTION_DOWN:
                self._note_state(connection.error, now_ns)
            return
        if events & ~<uint32_t>EPOLLOUT:
            self._receive_from(connection)
        if connection.has_unsent():
            self._send_through(connection)

    cdef uint64_t _given_up_ns(self) noexcept nogil:
        """When there has been no connection for too long; the largest number: never, as things are."""
        cdef uint64_t down_ns, last_ns = 0
        cdef uint32_t index
        for index in range(self.connection_count):
            down_ns = (<Connection>self.connection[index]).down_ns
            if down_ns == 0 or self.reconnect_ns == NEVER_NS:
                return NEVER_NS
            last_ns = max(last_ns, down_ns)
        return last_ns + self.reconnect_ns

    cdef bint _is_given_up(self, uint64_t now_ns) noexcept nogil:
        return self._given_up_ns() <= now_ns

    cdef void _set_timer(self, uint64_t now_ns) noexcept nogil:
        """Have `ready_fd` say when something is to be done that no server begins."""
        cdef itimerspec value
        cdef uint64_t wanted_ns = self._given_up_ns() if self.requests.waiting.first != NULL else NEVER_NS
        cdef uint32_t index
        for index in range(self.connection_count):
            if (<Connection>self.connection[index]).state == CONNECTION_DOWN:
                wanted_ns = min(wanted_ns, (<Connection>self.connection[index]).attempt_ns)
        if self.is_look_due:
            wanted_ns = min(wanted_ns, self.looked_ns + LOOK_NS + 1)
        if wanted_ns == NEVER_NS:
            wanted_ns = 0
        if wanted_ns == self.timer_ns:
            return
        self.timer_ns = wanted_ns
        if wanted_ns:
            wanted_ns = max(wanted_ns, now_ns + 1)
        memset(&value, 0, sizeof(value))
        value.it_value.tv_sec = <long>(wanted_ns // 1000000000)
        value.it_value.tv_nsec = <long>(wanted_ns % 1000000000)
        timerfd_settime(self.timer_fd, TFD_TIMER_ABSTIME, &value, NULL)


class ConnectionNotes:
    """Says in the log what becomes of a connection: once, however often it is tried again for the same reason."""

    def __init__(self, uri_text, index):
        self._name = uri_text if index == 0 else f"{uri_text} (connection {index + 1})"
        self._was_lost = False
        self._fault = ""

    def __call__(self, is_ready, error_number, fault):
        if is_ready:
            if self._was_lost:
                _log.info("%s: connected again", self._name)
            self._was_lost = False
            self._fault = ""
        elif not self._was_lost or (fault and fault != self._fault):
            self._was_lost = True
            self._fault = fault
            _log.warning("%s: no connection: %s; trying again", self._name, fault or os.strerror(error_number))
