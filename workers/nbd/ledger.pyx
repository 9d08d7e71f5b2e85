# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What each connection to an NBD server owes, so that a dead client's requests can be waited for.

NBD has no fence: a server goes on with what it has received, whatever becomes of the connection, and a write may
land after a newer one of the next process. What ends it is the reply. So whoever goes on waits for a reply to each
request that the server has received, and needs to know which those are and where in the stream of replies the dead
process had got to. Both are counts of bytes. The process may die at any instruction, so it does not count itself:
sendmmsg(2) and recvmmsg(2) write how much they moved into the `mmsghdr` they were called with, before they end,
and that lies in shared memory. Each call uses one of two by turns, so there is no moment at which bytes count
twice or not at all.

The sockets themselves are in `mailbox.py`. The layout is in the .pxd.
"""

import mmap
import os

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ringblk.shm.sync.atomic cimport store_release_32
from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.workers.nbd.protocol cimport (
    CHUNK_DONE, CHUNK_HEADER_BYTES, CHUNK_MAGIC, COMMAND_READ, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, ChunkHeader,
    SimpleReply, be16toh, be32toh, be64toh,
)

MAX_CONNECTIONS = CONNECTION_LIMIT
LOOK_BYTES = 1 << 18   # of replies that are taken at once


cdef void set_current(Direction *direction, uint32_t other) noexcept nogil:
    # Release: the transfer before the word that makes it count, for the compiler; the reader comes after a death.
    store_release_32(&direction.current, other)


cdef void begin_connection(ConnectionLedger *ledger) noexcept nogil:
    """Nothing is owed and nothing was moved; the generation comes last."""
    cdef uint32_t generation = ledger.generation
    cdef uint32_t index
    for index in range(<uint32_t>LEDGER_DEPTH):
        ledger.debts[index].is_owed = 0
    memset(&ledger.sent, 0, sizeof(Direction))
    memset(&ledger.received, 0, sizeof(Direction))
    ledger.boundary_bytes = 0
    ledger.tls.overhead_bytes = 0   # until the transmission says otherwise, before the first request
    store_release_32(&ledger.generation, generation + 1)


cdef class Ledger:
    """Of all connections of one drive. `fd` is its memory, for other processes of the drive; None makes a new one."""

    def __init__(self, fd=None):
        size_bytes = sizeof(DriveLedger)
        if fd is None:
            self.fd = os.memfd_create("ringblk-nbd", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, size_bytes)
        else:
            self.fd = fd
        self.view = memoryview(mmap.mmap(self.fd, size_bytes))
        self.drive = <DriveLedger *>address_of(self.view)
        self.connections = self.drive.connections

    @property
    def user(self):
        """Which process of the drive has the connections, or had them last: a number of its own; 0: none so far."""
        return self.drive.user

    @user.setter
    def user(self, uint32_t user):
        self.drive.user = user

    @property
    def ready_count(self):
        """How many connections there are."""
        return self.drive.ready_count

    @property
    def request_count(self):
        """Requests that were begun, and that the server has not answered."""
        return self.drive.request_count

    @property
    def error(self):
        """Why there was none last, as a positive errno; 0: there always was."""
        return self.drive.error

    @property
    def changed_ns(self):
        """Since when there is any, or none, by the monotonic clock; 0: there was none so far."""
        return self.drive.changed_ns

    @property
    def size_bytes(self):
        """Of the export, as the server has said last."""
        return self.drive.size_bytes

    @size_bytes.setter
    def size_bytes(self, uint64_t size_bytes):
        self.drive.size_bytes = size_bytes

    def generation(self, int index):
        """The number of a place's connection so far; 0: it has had none."""
        return self.connections[index].generation

    def is_encrypted(self, int index):
        """Whether a place's connection is."""
        return self.connections[index].tls.overhead_bytes != 0

    def owed_count(self, int index):
        """Requests that the server has received on this connection and not answered."""
        return owed_count(&self.connections[index])

    def close(self):
        """Close the descriptor; the mapping stays until the object goes."""
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            os.close(fd)


cdef int owed_count(ConnectionLedger *ledger) noexcept nogil:
    cdef uint64_t sent_bytes = total_bytes(&ledger.sent)
    cdef uint32_t index
    cdef int count = 0
    for index in range(<uint32_t>LEDGER_DEPTH):
        if ledger.debts[index].is_owed and ledger.debts[index].end_bytes <= sent_bytes:
            count += 1
    return count


class NotNbd(Exception):  # noqa: N818
    """What the server says makes no sense any more: nobody can tell what it has done."""


cdef class ReplyKeeper:
    """Takes the replies that are owed to a process that is dead, on its socket; nobody else reads from that.

    A request of which the server has received a part is not owed: it is never carried out.
    """

    cdef ConnectionLedger *ledger
    cdef object ledgers        # keeps the memory
    cdef object head           # of a reply: the bytes that are there
    cdef uint64_t skipped_bytes  # of data, still to come

    def __init__(self, Ledger ledgers, int index):
        cdef uint64_t place, total
        self.ledgers = ledgers
        self.ledger = &ledgers.connections[index]
        self.head = bytearray()
        place, total = self.ledger.boundary_bytes, total_bytes(&self.ledger.received)
        if place > total:
            self.skipped_bytes = place - total
        else:   # it had received these and not taken note of them
            self.feed(bytearray([self.ledger.stream[at % RECEIVE_BYTES] for at in range(place, total)]))

    @property
    def owed_count(self):
        """Requests that the server is still to answer."""
        return owed_count(self.ledger)

    def feed(self, data):
        """Take note of what the socket has brought. Raises `NotNbd`."""
        view = memoryview(data)
        while view:
            count = min(len(view), self.skipped_bytes or self.missing_bytes())
            if self.skipped_bytes:
                self.skipped_bytes -= count
            else:
                self.head += view[:count]
            view = view[count:]
            if not self.skipped_bytes and not self.missing_bytes():
                self.take_head()

    def missing_bytes(self):
        """Of the head of the next reply."""
        cdef uint32_t magic = int.from_bytes(self.head[:4], "big")
        if len(self.head) < SIMPLE_REPLY_BYTES or magic == SIMPLE_REPLY_MAGIC:
            return SIMPLE_REPLY_BYTES - len(self.head)
        return CHUNK_HEADER_BYTES - len(self.head)

    def take_head(self):
        """A head is there: take note of what it says, and begin with the next."""
        cdef ChunkHeader chunk
        cdef SimpleReply reply
        cdef const unsigned char[:] head = self.head
        cdef uint64_t cookie
        cdef bint is_last = True
        if head.shape[0] == SIMPLE_REPLY_BYTES:
            memcpy(&reply, &head[0], SIMPLE_REPLY_BYTES)
            cookie = be64toh(reply.cookie)
            if cookie < LEDGER_DEPTH and reply.error == 0:
                self.skipped_bytes = self.ledger.debts[cookie].length_bytes
        else:
            memcpy(&chunk, &head[0], CHUNK_HEADER_BYTES)
            if be32toh(chunk.magic) != CHUNK_MAGIC:
                raise NotNbd
            cookie = be64toh(chunk.cookie)
            is_last = be16toh(chunk.flags) & CHUNK_DONE
            self.skipped_bytes = be32toh(chunk.length_bytes)
        if cookie >= LEDGER_DEPTH:
            raise NotNbd
        if is_last:
            self.ledger.debts[cookie].is_owed = 0
        self.head = bytearray()
