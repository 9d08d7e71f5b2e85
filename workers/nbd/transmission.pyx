# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The transmission phase of one connection: many requests under way, sent in batches, answered in any order.

libnbd shakes hands (handshake.pyx), and this takes the socket over: libnbd sends each request in a call of its own
from one piece of memory, and does not tell how much of the streams has gone by, without which nobody can wait for
what a dead process has sent (ledger.pyx). Data go straight between guest memory and the socket; of short reads many
come with one call and are copied.
"""

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, EINVAL, EIO, EPROTO, ESHUTDOWN, errno
from libc.string cimport memcpy, memset

from ringblk.shm.sync.atomic cimport store_release_64
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.nbd.command cimport append
from ringblk.workers.nbd.ledger cimport (
    MSG_DONTWAIT, MSG_NOSIGNAL, RECEIVE_BYTES, begin_connection, mmsghdr, next_transfer, recvmmsg, sendmmsg,
)
from ringblk.workers.nbd.protocol cimport (
    CHUNK_DONE, CHUNK_ERROR_BIT, CHUNK_HEADER_BYTES, CHUNK_MAGIC, CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE,
    COMMAND_READ, COMMAND_WRITE, ERROR_SHUTDOWN, LONGEST_CONTROL_BYTES, REQUEST_MAGIC, SIMPLE_REPLY_BYTES,
    SIMPLE_REPLY_MAGIC, ChunkHeader, SimpleReply, be16toh, be32toh, be64toh, htobe16, htobe32, htobe64,
)

cdef enum:
    LARGE_BYTES = 1 << 15     # data of a read that cost more to copy than a call of their own
    SMALL_RECEIVE_BYTES = 1 << 12   # so much is received at once while such are under way
    SEND_BYTES = 1 << 20      # at most, in one call


cdef class Transmission:
    """Of the connection in place `index` of the ledger, and of its successors there."""

    def __cinit__(self, Ledger ledgers, int index, *_):
        self.ledgers = ledgers
        self.ledger = &ledgers.connections[index]
        self.stream = self.ledger.stream
        self.fd = -1

    cdef void begin(self, int fd) noexcept nogil:
        """Go on with this connection; the ledger has begun anew for it (`begin_connection`)."""
        cdef uint32_t index
        self.fd = fd
        for index in range(<uint32_t>LEDGER_DEPTH):
            self.free_cookies[index] = LEDGER_DEPTH - 1 - index
            self.commands[index] = NULL
        self.free_count = LEDGER_DEPTH
        self.queue_head = self.queue_tail = 0
        self.queued_bytes = self.sent_bytes = self.received_bytes = self.parsed_bytes = 0
        self.reading = NULL
        self.data_bytes = 0
        self.large_count = 0
        self.wants_write = False

    cdef void queue_command(self, NbdCommand *command) noexcept nogil:
        """Have it sent with the next `send`; there is room for it (`free_count`)."""
        cdef uint32_t cookie
        cdef RequestHeader *header
        self.free_count -= 1
        cookie = self.free_cookies[self.free_count]
        header = &self.headers[cookie]
        header.magic = htobe32(REQUEST_MAGIC)
        header.flags = htobe16(command.flags)
        header.command = htobe16(command.command)
        header.cookie = htobe64(cookie)
        header.offset_bytes = htobe64(command.offset_bytes)
        header.length_bytes = htobe32(command.length_bytes)
        command.error = 0
        command.given_bytes = 0
        self.commands[cookie] = command
        self.queued_bytes += sizeof(RequestHeader)
        if command.command == COMMAND_WRITE:
            self.queued_bytes += command.length_bytes
        self.ledger.debts[cookie].end_bytes = self.queued_bytes
        self.ledger.debts[cookie].command = command.command
        self.ledger.debts[cookie].length_bytes = command.length_bytes if command.command == COMMAND_READ else 0
        self.ledger.debts[cookie].is_owed = 1
        self.large_count += self.ledger.debts[cookie].length_bytes >= LARGE_BYTES
        self.queue[self.queue_tail % LEDGER_DEPTH] = cookie
        self.queue_tail += 1

    cdef bint has_commands(self) noexcept nogil:
        """Whether anything is under way on it."""
        return self.fd >= 0 and self.free_count < LEDGER_DEPTH

    cdef int send(self) noexcept nogil:
        """Send what is queued, as far as the socket takes it: 0, or a negative errno: the connection is lost."""
        cdef mmsghdr *message
        cdef int count
        while self.sent_bytes < self.queued_bytes:
            count = self._fill_send()
            message = next_transfer(&self.ledger.sent)
            message.msg_hdr.msg_iov = self.vectors
            message.msg_hdr.msg_iovlen = count
            crash_point("nbd: about to send")
            if sendmmsg(self.fd, message, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
                if errno == EINTR:
                    continue
                self.wants_write = errno == EAGAIN
                return 0 if self.wants_write else -errno
            crash_point("nbd: sent")
            self.sent_bytes += message.msg_len
            while self.queue_head != self.queue_tail \
                    and self.ledger.debts[self.queue[self.queue_head % LEDGER_DEPTH]].end_bytes <= self.sent_bytes:
                self.queue_head += 1
        self.wants_write = False
        return 0

    cdef int _fill_send(self) noexcept nogil:
        """List what is to be sent next in `vectors`; returns how many they are."""
        cdef uint32_t place = self.queue_head, cookie
        cdef NbdCommand *command
        cdef uint64_t size_bytes, skipped_bytes, filled_bytes = 0
        cdef int count = 0, index
        cookie = self.queue[place % LEDGER_DEPTH]
        command = self.commands[cookie]
        size_bytes = sizeof(RequestHeader) + (command.length_bytes if command.command == COMMAND_WRITE else 0)
        skipped_bytes = self.sent_bytes - (self.ledger.debts[cookie].end_bytes - size_bytes)
        while place != self.queue_tail and count < VECTOR_LIMIT and filled_bytes < SEND_BYTES:
            cookie = self.queue[place % LEDGER_DEPTH]
            command = self.commands[cookie]
            count += self._add_from(count, &self.headers[cookie], sizeof(RequestHeader), &skipped_bytes)
            filled_bytes += sizeof(RequestHeader)
            if command.command == COMMAND_WRITE:
                filled_bytes += command.length_bytes
                for index in range(command.range_count):
                    if count == VECTOR_LIMIT:
                        return count
                    count += self._add_from(count, command.ranges[index].iov_base, command.ranges[index].iov_len,
                                            &skipped_bytes)
            place += 1
        return count

    cdef int _add_from(self, int count, void *start, uint64_t size_bytes, uint64_t *skipped_bytes) noexcept nogil:
        """Add what is left of a piece, after what has gone before: 1 if there is any."""
        if skipped_bytes[0] >= size_bytes:
            skipped_bytes[0] -= size_bytes
            return 0
        self.vectors[count].iov_base = <char *>start + skipped_bytes[0]
        self.vectors[count].iov_len = size_bytes - skipped_bytes[0]
        skipped_bytes[0] = 0
        return 1

    cdef int receive(self) noexcept nogil:
        """Take what has come: 0, or a negative errno: the connection is lost. Answered commands are in `done`."""
        cdef mmsghdr *message
        cdef uint64_t asked_bytes
        cdef int count, index, result
        while True:
            count = self._fill_receive()
            self.is_direct = self.data_bytes != 0
            asked_bytes = 0
            for index in range(count):
                asked_bytes += self.vectors[index].iov_len
            message = next_transfer(&self.ledger.received)
            message.msg_hdr.msg_iov = self.vectors
            message.msg_hdr.msg_iovlen = count
            crash_point("nbd: about to receive")
            result = recvmmsg(self.fd, message, 1, MSG_DONTWAIT, NULL)
            if result < 0:
                if errno == EINTR:
                    continue
                return 0 if errno == EAGAIN else -errno
            if message.msg_len == 0:
                return -ECONNRESET
            crash_point("nbd: received")
            self.received_bytes += message.msg_len
            result = self._parse()
            if result < 0 or message.msg_len < asked_bytes:
                return result   # of a short one the socket has no more

    cdef int _fill_receive(self) noexcept nogil:
        """Where the next bytes go: data that come in where they belong, all else into the ledger's stream."""
        cdef uint64_t left_bytes = self.data_bytes, size_bytes
        cdef uint64_t room_bytes = RECEIVE_BYTES, place = self.received_bytes
        cdef int count = 0
        if self.data_bytes and self.reading != NULL:   # then all that was received is parsed
            for index in range(self.range_index, self.reading.range_count):
                if left_bytes == 0 or count == VECTOR_LIMIT - 2:
                    break
                size_bytes = self.reading.ranges[index].iov_len
                self.vectors[count].iov_base = self.reading.ranges[index].iov_base
                if index == self.range_index:
                    size_bytes -= self.range_offset_bytes
                    self.vectors[count].iov_base = <char *>self.vectors[count].iov_base + self.range_offset_bytes
                self.vectors[count].iov_len = min(size_bytes, left_bytes)
                left_bytes -= self.vectors[count].iov_len
                count += 1
            if left_bytes:
                return count
            place += self.data_bytes
        else:
            room_bytes -= self.received_bytes - self.parsed_bytes
        if self.large_count:
            room_bytes = min(room_bytes, <uint64_t>SMALL_RECEIVE_BYTES)
        size_bytes = min(room_bytes, RECEIVE_BYTES - place % RECEIVE_BYTES)
        self.vectors[count].iov_base = self.stream + place % RECEIVE_BYTES
        self.vectors[count].iov_len = size_bytes
        count += 1
        if room_bytes > size_bytes:
            self.vectors[count].iov_base = self.stream
            self.vectors[count].iov_len = room_bytes - size_bytes
            count += 1
        return count

    cdef int _parse(self) noexcept nogil:
        """Carry out what the received bytes say, as far as they go: 0, or -EPROTO."""
        cdef uint32_t magic
        cdef uint64_t left_bytes
        cdef int result
        while True:
            if self.data_bytes:
                self._copy_data()
                if self.data_bytes:
                    return 0
            left_bytes = self.received_bytes - self.parsed_bytes
            if left_bytes < SIMPLE_REPLY_BYTES:
                return 0
            self._peek(self.parsed_bytes, &magic, sizeof(magic))
            result = self._parse_simple() if be32toh(magic) == SIMPLE_REPLY_MAGIC else self._parse_chunk()
            if result <= 0:
                return result

    cdef int _parse_simple(self) noexcept nogil:
        """1: it was one; -EPROTO."""
        cdef SimpleReply reply
        cdef uint64_t cookie, length_bytes
        cdef int error
        self._peek(self.parsed_bytes, &reply, SIMPLE_REPLY_BYTES)
        cookie = be64toh(reply.cookie)
        if cookie >= LEDGER_DEPTH or self.commands[cookie] == NULL or self.reading != NULL:
            return -EPROTO
        error = <int>be32toh(reply.error)
        if error == ERROR_SHUTDOWN:
            return -ESHUTDOWN
        length_bytes = 0 if error else self.ledger.debts[cookie].length_bytes
        self.parsed_bytes += SIMPLE_REPLY_BYTES
        self.commands[cookie].error = -error if error else self.commands[cookie].error
        self._note_head(<uint32_t>cookie, True, self.parsed_bytes + length_bytes)
        return self._begin_data(<uint32_t>cookie, 0, length_bytes, True)

    cdef int _parse_chunk(self) noexcept nogil:
        """1: it was one; 0: more of it is to come; a negative errno."""
        cdef ChunkHeader chunk
        cdef NbdCommand *command
        cdef uint64_t cookie, offset_bytes, head_bytes = CHUNK_HEADER_BYTES, length_bytes
        cdef uint32_t word
        cdef uint16_t kind
        cdef bint is_last
        if self.received_bytes - self.parsed_bytes < CHUNK_HEADER_BYTES:
            return 0
        self._peek(self.parsed_bytes, &chunk, CHUNK_HEADER_BYTES)
        cookie, kind, length_bytes = be64toh(chunk.cookie), be16toh(chunk.type), be32toh(chunk.length_bytes)
        is_last = be16toh(chunk.flags) & CHUNK_DONE
        if be32toh(chunk.magic) != CHUNK_MAGIC or cookie >= LEDGER_DEPTH or self.commands[cookie] == NULL:
            return -EPROTO
        command = self.commands[cookie]
        # All but data is there before any of it is taken note of.
        head_bytes += 8 if kind == CHUNK_OFFSET_DATA else length_bytes
        if length_bytes > LONGEST_CONTROL_BYTES and kind != CHUNK_OFFSET_DATA:
            return -EPROTO
        if self.received_bytes - self.parsed_bytes < head_bytes:
            return 0
        if kind == CHUNK_OFFSET_DATA or kind == CHUNK_OFFSET_HOLE:
            if command.command != COMMAND_READ or length_bytes < 8 or (kind == CHUNK_OFFSET_HOLE and length_bytes != 12):
                return -EPROTO
            self._peek(self.parsed_bytes + CHUNK_HEADER_BYTES, &offset_bytes, 8)
            offset_bytes = be64toh(offset_bytes) - command.offset_bytes
        elif kind & CHUNK_ERROR_BIT:
            if length_bytes < 4:
                return -EPROTO
            self._peek(self.parsed_bytes + CHUNK_HEADER_BYTES, &word, 4)
            if be32toh(word) == ERROR_SHUTDOWN:
                return -ESHUTDOWN
            command.error = -<int>be32toh(word) if word else -EINVAL
        elif kind != CHUNK_NONE or length_bytes or not is_last:
            return -EPROTO
        if kind == CHUNK_OFFSET_HOLE:
            self._peek(self.parsed_bytes + CHUNK_HEADER_BYTES + 8, &word, 4)
            if self._fill_hole(<uint32_t>cookie, offset_bytes, be32toh(word)) < 0:
                return -EPROTO
        self._note_head(<uint32_t>cookie, is_last, self.parsed_bytes + CHUNK_HEADER_BYTES + length_bytes)
        self.parsed_bytes += head_bytes
        if kind == CHUNK_OFFSET_DATA:
            return self._begin_data(<uint32_t>cookie, offset_bytes, length_bytes - 8, is_last)
        if is_last:
            self._end_command(<uint32_t>cookie)
        return 1

    cdef int _begin_data(self, uint32_t cookie, uint64_t offset_bytes, uint64_t size_bytes, bint is_last) noexcept nogil:
        """The next so many bytes are data of a read, from this offset of it on: 1, or -EPROTO."""
        cdef NbdCommand *command = self.commands[cookie]
        if size_bytes == 0:
            if is_last:
                self._end_command(cookie)
            return 1
        if size_bytes > command.length_bytes or offset_bytes > command.length_bytes - size_bytes:
            return -EPROTO
        command.given_bytes += size_bytes
        self.reading = command
        self.reading_cookie = cookie
        self.is_last = is_last
        self.data_bytes = size_bytes
        self._place_cursor(command, offset_bytes)
        return 1

    cdef int _fill_hole(self, uint32_t cookie, uint64_t offset_bytes, uint64_t size_bytes) noexcept nogil:
        cdef NbdCommand *command = self.commands[cookie]
        cdef uint64_t part_bytes
        if size_bytes == 0 or size_bytes > command.length_bytes or offset_bytes > command.length_bytes - size_bytes:
            return -EPROTO
        command.given_bytes += size_bytes
        self._place_cursor(command, offset_bytes)
        while size_bytes:
            part_bytes = min(size_bytes, command.ranges[self.range_index].iov_len - self.range_offset_bytes)
            memset(<char *>command.ranges[self.range_index].iov_base + self.range_offset_bytes, 0, part_bytes)
            size_bytes -= part_bytes
            self.range_index += 1
            self.range_offset_bytes = 0
        return 0

    cdef void _place_cursor(self, NbdCommand *command, uint64_t offset_bytes) noexcept nogil:
        self.range_index = 0
        while offset_bytes >= command.ranges[self.range_index].iov_len:
            offset_bytes -= command.ranges[self.range_index].iov_len
            self.range_index += 1
        self.range_offset_bytes = offset_bytes

    cdef void _copy_data(self) noexcept nogil:
        """Take data: those that are there already where they belong, and those in the stream."""
        cdef uint64_t there_bytes = min(self.received_bytes - self.parsed_bytes, self.data_bytes), part_bytes
        cdef uint64_t place
        cdef iovec *piece
        cdef bint is_direct = self.is_direct
        self.is_direct = False
        while there_bytes:
            piece = &self.reading.ranges[self.range_index]
            place = self.parsed_bytes % RECEIVE_BYTES
            part_bytes = min(there_bytes, piece.iov_len - self.range_offset_bytes)
            if not is_direct:
                part_bytes = min(part_bytes, RECEIVE_BYTES - place)
                memcpy(<char *>piece.iov_base + self.range_offset_bytes, self.stream + place, part_bytes)
            there_bytes -= part_bytes
            self._advance_data(part_bytes)
        if self.data_bytes == 0:
            self.reading = NULL
            if self.is_last:
                self._end_command(self.reading_cookie)

    cdef void _advance_data(self, uint64_t size_bytes) noexcept nogil:
        self.parsed_bytes += size_bytes
        self.data_bytes -= size_bytes
        self.range_offset_bytes += size_bytes
        if self.range_offset_bytes == self.reading.ranges[self.range_index].iov_len:
            self.range_index += 1
            self.range_offset_bytes = 0

    cdef void _note_head(self, uint32_t cookie, bint is_last, uint64_t end_bytes) noexcept nogil:
        """What the server has done is done from here on, whatever becomes of this process."""
        if is_last:
            self.ledger.debts[cookie].is_owed = 0
        crash_point("nbd: answer known")
        # Release: the debt before the boundary, for the compiler; the reader comes after a death.
        store_release_64(&self.ledger.boundary_bytes, end_bytes)

    cdef void _end_command(self, uint32_t cookie) noexcept nogil:
        cdef NbdCommand *command = self.commands[cookie]
        if command.error == 0 and command.given_bytes != self.ledger.debts[cookie].length_bytes:
            command.error = -EIO   # a read of which the server has left something out
        self.large_count -= self.ledger.debts[cookie].length_bytes >= LARGE_BYTES
        append(&self.done, command)
        self.commands[cookie] = NULL
        self.free_cookies[self.free_count] = cookie
        self.free_count += 1
        self.round_trips += 1

    cdef void _peek(self, uint64_t place, void *target, uint32_t size_bytes) noexcept nogil:
        """Copy from the stream, where it may go round."""
        cdef uint64_t start = place % RECEIVE_BYTES
        cdef uint32_t part_bytes = <uint32_t>min(<uint64_t>size_bytes, RECEIVE_BYTES - start)
        memcpy(target, self.stream + start, part_bytes)
        memcpy(<char *>target + part_bytes, self.stream, size_bytes - part_bytes)

    cdef void give_back(self, CommandList *commands) noexcept nogil:
        """The connection is lost: what was not answered goes to `commands`, in any order."""
        cdef uint32_t index
        self.fd = -1
        for index in range(<uint32_t>LEDGER_DEPTH):
            if self.commands[index] != NULL:
                append(commands, self.commands[index])
                self.commands[index] = NULL
        self.free_count = 0
        self.queue_head = self.queue_tail = 0
        self.wants_write = False
