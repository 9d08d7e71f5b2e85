from libc.stdint cimport uint32_t, uint64_t

from ringblk.workers.nbd.command cimport CommandList
from ringblk.workers.nbd.handshake cimport Handshake
from ringblk.workers.nbd.ledger cimport Ledger
from ringblk.workers.nbd.transmission cimport Transmission

cdef enum ConnectionState:
    CONNECTION_DOWN           # the next attempt is at `attempt_ns`
    CONNECTION_BEGINNING      # to connect and shake hands
    CONNECTION_READY


cdef class Connection:
    cdef readonly Transmission transmission
    cdef ConnectionState state
    cdef uint64_t attempt_ns
    cdef uint64_t down_ns     # since when there has been no connection; 0: there is one
    cdef int error            # of the last attempt, or of the end of the last connection
    cdef Handshake handshake
    cdef Ledger ledgers
    cdef object mailbox, addresses, note
    cdef int index, epoll_fd
    cdef uint32_t address_index, attempt_count
    cdef uint32_t watched_events

    cdef bint is_due(self, uint64_t now_ns) noexcept nogil
    cdef bint has_unsent(self) noexcept nogil
    cdef void attempt(self, uint64_t now_ns) noexcept nogil
    cdef void see(self, uint32_t events, bint has_other, uint64_t now_ns) noexcept nogil
    cdef void lose(self, int error, uint64_t now_ns) noexcept nogil
    cdef void watch(self) noexcept nogil
    cdef int _connect(self) noexcept nogil
    cdef int _take_over(self) noexcept nogil
    cdef void _end_attempt(self, int error, uint64_t now_ns) noexcept nogil
    cdef void _note(self, bint is_ready, int error, bint is_of_handshake) noexcept nogil
    cdef void _watch(self, int fd, int how, uint32_t events) noexcept nogil
