from libc.stdint cimport uint32_t, uint64_t

from ringblk.workers.backends.asynchronous cimport AsyncForm, StorageOutcome, StorageRequest
from ringblk.workers.nbd.command cimport CommandList, NbdCommand
from ringblk.workers.backends.nbd_requests cimport NbdRequests
from ringblk.workers.nbd.connection cimport Connection
from ringblk.workers.nbd.ledger cimport CONNECTION_LIMIT, Ledger


cdef class NbdForm(AsyncForm):
    cdef readonly list connections
    cdef void *connection[CONNECTION_LIMIT]
    cdef uint32_t connection_count
    cdef Ledger ledgers
    cdef NbdRequests requests
    cdef uint64_t reconnect_ns
    cdef int timer_fd, news_fd
    cdef uint64_t timer_ns            # what the timer is set to; 0: nothing
    cdef uint64_t looked_ns
    cdef bint is_look_due             # it was left out: the timer sees to it
    cdef uint32_t under_way           # commands that connections have

    cdef void _give_out(self) noexcept nogil
    cdef uint32_t _least_busy(self) noexcept nogil
    cdef void _look(self, uint64_t now_ns) noexcept nogil
    cdef void _see(self, Connection connection, uint32_t events, uint64_t now_ns) noexcept nogil
    cdef void _note_made(self, Connection connection, uint64_t now_ns) noexcept nogil
    cdef bint _has_other(self, Connection connection) noexcept nogil
    cdef void _note_state(self, int error, uint64_t now_ns) noexcept nogil
    cdef void _send(self) noexcept nogil
    cdef void _send_through(self, Connection connection) noexcept nogil
    cdef void _receive(self) noexcept nogil
    cdef void _receive_from(self, Connection connection) noexcept nogil
    cdef void _lose(self, Connection connection, int error) noexcept nogil
    cdef void _set_timer(self, uint64_t now_ns) noexcept nogil
    cdef uint64_t _given_up_ns(self) noexcept nogil
    cdef bint _is_given_up(self, uint64_t now_ns) noexcept nogil
