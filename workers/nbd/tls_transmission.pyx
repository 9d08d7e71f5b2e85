# libraries: nbd
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The transmission phase of an encrypted connection: as transmission.pyx, with Python's ssl between it and the socket.

Requests and replies are made and read as there, in memory of this process; what goes by the ledger are TLS records.
For whoever has to wait for a dead process's replies, and cannot read them, the ledger says how many bytes of data the
answers have in all, and how many have come (record_keeper.pyx).
"""

from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, ECONNRESET, EINTR, EPROTO, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ringblk.shm.sync.atomic cimport store_release_32, store_release_64
from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.nbd.ledger cimport (
    LEDGER_DEPTH, MARK_COUNT, MSG_DONTWAIT, MSG_NOSIGNAL, RECEIVE_BYTES, TlsMark, TlsPlace, mmsghdr, next_transfer,
    recvmmsg, sendmmsg,
)
from ringblk.workers.nbd.protocol cimport COMMAND_READ, COMMAND_WRITE, SIMPLE_REPLY_BYTES, RequestHeader
from ringblk.workers.nbd.tls_records cimport advance

cdef enum:
    PIECE_BYTES = 1 << 14     # the content of the largest record
    UNSENT_BYTES = 1 << 18    # while so much is encrypted and was not sent, no more is

cdef uint64_t NEVER = <uint64_t>-1


cdef class TlsTransmission(Transmission):
    """Of a place whose connections that handshake makes."""

    def __cinit__(self, ledgers, int index, TlsHandshake handshake):
        self.handshake = handshake
        self.plain, self.piece = memoryview(bytearray(RECEIVE_BYTES)), memoryview(bytearray(PIECE_BYTES))
        self.stream, self.piece_bytes = <uint8_t *>address_of(self.plain), <uint8_t *>address_of(self.piece)
        self.unsent = b""

    cdef void begin(self, int fd) noexcept nogil:
        cdef uint32_t index, overhead_bytes
        Transmission.begin(self, fd)
        self.encrypted_bytes = self.asked_bytes = self.spared_bytes = 0
        self.mark_count = 0
        self.unsent_place = 0
        with gil:
            self.session = self.handshake.take_session()
            overhead_bytes = self.session.overhead_bytes
            self.unsent = b""
        self.cursor.seen_bytes = self.cursor.end_bytes = self.cursor.data_bytes = 0
        self.cursor.left_bytes = self.cursor.head_count = 0
        self.cursor.overhead_bytes = overhead_bytes
        for index in range(<uint32_t>MARK_COUNT):
            self.ledger.tls.marks[index].end_bytes = NEVER
        for index in range(2):
            self.ledger.tls.places[index].stream_bytes = self.ledger.tls.places[index].answered_bytes = 0
        # Release: all of it before the word that makes it count, for the compiler; the reader comes after a death.
        store_release_32(&self.ledger.tls.overhead_bytes, overhead_bytes)

    cdef void queue_command(self, NbdCommand *command) noexcept nogil:
        cdef uint32_t place = self.queue_tail
        Transmission.queue_command(self, command)
        self.ledger.debts[self.queue[place % LEDGER_DEPTH]].end_bytes = NEVER   # it is in no record so far

    # Sending

    cdef int send(self) noexcept nogil:
        cdef int result
        while self.sent_bytes < self.queued_bytes:
            with gil:
                try:
                    self._encrypt()
                except Exception:   # of ssl
                    return -EPROTO
            result = self._send_records()
            if result < 0:
                self.wants_write = result == -EAGAIN
                return 0 if self.wants_write else result
            if self.queue_head == self.queue_tail:
                self.sent_bytes = self.queued_bytes
        self.wants_write = False
        return 0

    cdef int _encrypt(self) except -1:
        """Make records of what is queued, as far as there is room."""
        cdef uint64_t left_bytes = <uint64_t>len(self.unsent) - self.unsent_place
        cdef list parts = [self.unsent[self.unsent_place :]] if left_bytes else []
        cdef uint32_t cookie
        while self.queue_head != self.queue_tail and left_bytes < UNSENT_BYTES:
            cookie = self.queue[self.queue_head % LEDGER_DEPTH]
            self._say(self.commands[cookie], cookie)
            records = self.session.take()
            parts.append(records)
            left_bytes += <uint64_t>len(records)
            self.encrypted_bytes += <uint64_t>len(records)
            self._add_mark(cookie)
            self.queue_head += 1
        self.unsent = parts[0] if len(parts) == 1 else b"".join(parts)
        self.unsent_place = 0
        return 0

    cdef int _say(self, NbdCommand *command, uint32_t cookie) except -1:
        """Encrypt a request: no record has a part of two."""
        cdef uint64_t filled_bytes = sizeof(RequestHeader), done_bytes, part_bytes
        cdef int index
        memcpy(self.piece_bytes, &self.headers[cookie], sizeof(RequestHeader))
        if command.command == COMMAND_WRITE:
            for index in range(command.range_count):
                done_bytes = 0
                while done_bytes < command.ranges[index].iov_len:
                    part_bytes = min(command.ranges[index].iov_len - done_bytes, PIECE_BYTES - filled_bytes)
                    memcpy(self.piece_bytes + filled_bytes, <char *>command.ranges[index].iov_base + done_bytes, part_bytes)
                    done_bytes += part_bytes
                    filled_bytes += part_bytes
                    if filled_bytes == PIECE_BYTES:
                        self._say_piece(filled_bytes)
                        filled_bytes = 0
        return self._say_piece(filled_bytes) if filled_bytes else 0

    cdef int _say_piece(self, uint64_t size_bytes) except -1:
        self.session.say(self.piece[:size_bytes])
        return 0

    cdef int _add_mark(self, uint32_t cookie) except -1:
        """Note where a request ends, and what its answer brings, before any of it is sent."""
        cdef TlsMark *mark = &self.ledger.tls.marks[self.mark_count % MARK_COUNT]
        self.asked_bytes += SIMPLE_REPLY_BYTES + self.ledger.debts[cookie].length_bytes
        self.mark_count += 1
        # Release, three times: never is a number there that is not of this request and of one that was sent.
        store_release_64(&mark.end_bytes, NEVER)
        store_release_64(&mark.answered_bytes, self.asked_bytes)
        store_release_64(&mark.end_bytes, self.encrypted_bytes)
        self.ledger.debts[cookie].end_bytes = self.encrypted_bytes
        return 0

    cdef int _send_records(self) noexcept nogil:
        """Send what is encrypted: 0; -EAGAIN: some of it is left; another negative errno: the connection is lost."""
        cdef mmsghdr *message
        cdef uint64_t size_bytes
        cdef char *start
        with gil:
            start, size_bytes = self.unsent, <uint64_t>len(self.unsent)
        while self.unsent_place < size_bytes:
            self.vectors[0].iov_base = start + self.unsent_place
            self.vectors[0].iov_len = size_bytes - self.unsent_place
            message = next_transfer(&self.ledger.sent)
            message.msg_hdr.msg_iov = self.vectors
            message.msg_hdr.msg_iovlen = 1
            crash_point("nbd: about to send")
            if sendmmsg(self.fd, message, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
                if errno == EINTR:
                    continue
                return -errno
            crash_point("nbd: sent")
            self.unsent_place += message.msg_len
        return 0

    # Receiving

    cdef int receive(self) noexcept nogil:
        cdef mmsghdr *message
        cdef uint64_t place, size_bytes
        cdef int result
        while True:
            place = self.cursor.seen_bytes % RECEIVE_BYTES
            size_bytes = RECEIVE_BYTES // 2   # what came before this, back to where a record ends, stays
            self.vectors[0].iov_base = self.ledger.stream + place
            self.vectors[0].iov_len = min(size_bytes, RECEIVE_BYTES - place)
            self.vectors[1].iov_base = self.ledger.stream
            self.vectors[1].iov_len = size_bytes - self.vectors[0].iov_len
            message = next_transfer(&self.ledger.received)
            message.msg_hdr.msg_iov = self.vectors
            message.msg_hdr.msg_iovlen = 2 if self.vectors[1].iov_len else 1
            crash_point("nbd: about to receive")
            if recvmmsg(self.fd, message, 1, MSG_DONTWAIT, NULL) < 0:
                if errno == EINTR:
                    continue
                return 0 if errno == EAGAIN else -errno
            if message.msg_len == 0:
                return -ECONNRESET
            crash_point("nbd: received")
            with gil:
                try:
                    result = self._take_records(message.msg_len)
                except Exception:   # of ssl, or the session's end
                    result = -ECONNRESET
            if result < 0 or message.msg_len < size_bytes:
                return result

    cdef int _take_records(self, uint64_t size_bytes) except? -1:
        """Decrypt and parse what was received: 0, or a negative errno."""
        cdef uint64_t part_bytes, place
        cdef int result
        while size_bytes:
            place = self.cursor.seen_bytes % RECEIVE_BYTES
            part_bytes = min(size_bytes, RECEIVE_BYTES - place)
            self.session.feed_all(PyMemoryView_FromMemory(<char *>self.ledger.stream + place, part_bytes, PyBUF_READ))
            advance(&self.cursor, self.ledger.stream + place, part_bytes)
            size_bytes -= part_bytes
        result = self._read_plain()
        self._note_place()
        return result

    cdef int _read_plain(self) except? -1:
        """Parse all that whole records say: 0, or -EPROTO."""
        cdef uint64_t place, room_bytes
        cdef int result, count
        while True:
            place = self.received_bytes % RECEIVE_BYTES
            room_bytes = RECEIVE_BYTES - (self.received_bytes - self.parsed_bytes)
            count = self.session.read_into(self.plain[place : place + min(room_bytes, RECEIVE_BYTES - place)])
            if count == 0:
                return 0
            self.received_bytes += count
            self.is_direct = False
            result = self._parse()
            if result < 0:
                return result

    cdef void _note_head(self, uint32_t cookie, bint is_last, uint64_t end_bytes) noexcept nogil:
        if self.commands[cookie].command == COMMAND_READ and self.commands[cookie].error:
            self.spared_bytes += self.ledger.debts[cookie].length_bytes
        self.ledger.debts[cookie].is_owed = 0
        crash_point("nbd: answer known")

    cdef void _note_place(self) noexcept nogil:
        """What has come so far is known to have come."""
        cdef uint32_t other = 1 - self.ledger.tls.current
        cdef TlsPlace *place = &self.ledger.tls.places[other]
        place.stream_bytes = self.cursor.end_bytes
        place.answered_bytes = self.received_bytes + self.spared_bytes
        # Release: both numbers before the word that makes them count, for the compiler; the reader comes after a death.
        store_release_32(&self.ledger.tls.current, other)
