from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

from ringblk.workers.nbd.command cimport CommandList, NbdCommand
from ringblk.workers.nbd.ledger cimport LEDGER_DEPTH, ConnectionLedger, Ledger
from ringblk.workers.nbd.protocol cimport RequestHeader

cdef enum:
    VECTOR_LIMIT = 1024       # IOV_MAX


cdef class Transmission:
    cdef Ledger ledgers       # keeps the memory
    cdef ConnectionLedger *ledger
    cdef uint8_t *stream      # of replies, RECEIVE_BYTES by place in it
    cdef int fd               # of a connection that has shaken hands; the caller's. -1: there is none
    cdef CommandList done     # answered, for the caller to take
    cdef uint32_t free_count  # more commands may be taken
    cdef bint wants_write     # the socket had no room for all that was queued
    cdef uint64_t round_trips # answers that have come since it was made

    cdef uint32_t free_cookies[LEDGER_DEPTH]
    cdef NbdCommand *commands[LEDGER_DEPTH]       # by cookie; NULL: the cookie is free
    cdef RequestHeader headers[LEDGER_DEPTH]
    cdef uint32_t queue[LEDGER_DEPTH]             # cookies that are not sent yet, in their order
    cdef uint32_t queue_head, queue_tail
    cdef uint64_t queued_bytes, sent_bytes
    cdef uint64_t received_bytes, parsed_bytes    # of the stream of replies
    # The reply whose data come in.
    cdef NbdCommand *reading
    cdef uint32_t reading_cookie
    cdef bint is_last                             # nothing follows for its request
    cdef bint is_direct                           # the last call has put them where they belong
    cdef uint64_t data_bytes                      # still to come
    cdef int range_index
    cdef uint64_t range_offset_bytes
    cdef uint32_t large_count                     # reads under way whose data are not to go through the ledger
    cdef iovec vectors[VECTOR_LIMIT]

    cdef void begin(self, int fd) noexcept nogil
    cdef void queue_command(self, NbdCommand *command) noexcept nogil
    cdef bint has_commands(self) noexcept nogil
    cdef int send(self) noexcept nogil
    cdef int receive(self) noexcept nogil
    cdef void give_back(self, CommandList *commands) noexcept nogil

    cdef int _fill_send(self) noexcept nogil
    cdef int _add_from(self, int count, void *start, uint64_t size_bytes, uint64_t *skipped_bytes) noexcept nogil
    cdef int _fill_receive(self) noexcept nogil
    cdef int _parse(self) noexcept nogil
    cdef int _parse_simple(self) noexcept nogil
    cdef int _parse_chunk(self) noexcept nogil
    cdef int _begin_data(self, uint32_t cookie, uint64_t offset_bytes, uint64_t size_bytes, bint is_last) noexcept nogil
    cdef int _fill_hole(self, uint32_t cookie, uint64_t offset_bytes, uint64_t size_bytes) noexcept nogil
    cdef void _place_cursor(self, NbdCommand *command, uint64_t offset_bytes) noexcept nogil
    cdef void _copy_data(self) noexcept nogil
    cdef void _advance_data(self, uint64_t size_bytes) noexcept nogil
    cdef void _note_head(self, uint32_t cookie, bint is_last, uint64_t end_bytes) noexcept nogil
    cdef void _end_command(self, uint32_t cookie) noexcept nogil
    cdef void _peek(self, uint64_t place, void *target, uint32_t size_bytes) noexcept nogil
