# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Taking the replies that are owed to a process that is dead, where they are encrypted.

Its key has died with it, so nobody can read what the server still says. Nobody has to: how long the records are can
be seen (`tls_records.pyx`), and how long the answers are is known, since without structured replies each is a head,
and the data of a read. So what is waited for is a number of bytes.

A read that fails brings no data, so less may come than was asked for. But reads are of whole sectors: what is missing
beyond a multiple of those are heads, as long as these are fewer than fit into a sector. Where the dead process had
more under way and one of its reads fails, the wait lasts until the connection ends.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.workers.nbd.ledger cimport (
    MARK_COUNT, RECEIVE_BYTES, ConnectionLedger, Ledger, TlsMark, TlsPlace, total_bytes,
)
from ringblk.workers.nbd.protocol cimport SIMPLE_REPLY_BYTES

from ringblk.workers.nbd.tls_records import RecordCount


cdef enum:
    SECTOR_BYTES = 512
    HEADS_TOLD_APART = 32     # as many fill a sector


cdef class RecordKeeper:
    """As `ReplyKeeper` (ledger.pyx), of an encrypted connection."""

    cdef ConnectionLedger *ledger
    cdef object ledgers        # keeps the memory
    cdef object count
    cdef uint64_t answered_bytes
    cdef int index

    def __init__(self, Ledger ledgers, int index):
        cdef TlsPlace *place
        cdef uint64_t at
        self.ledgers = ledgers
        self.index = index
        self.ledger = &ledgers.connections[index]
        place = &self.ledger.tls.places[self.ledger.tls.current]
        self.answered_bytes = place.answered_bytes
        self.count = RecordCount(self.ledger.tls.overhead_bytes)
        self.feed(bytes([self.ledger.stream[at % RECEIVE_BYTES]
                         for at in range(place.stream_bytes, total_bytes(&self.ledger.received))]))

    @property
    def owed_bytes(self):
        """Of answers that the server is still to give."""
        cdef uint64_t sent_bytes = total_bytes(&self.ledger.sent), wanted_bytes = 0
        cdef TlsMark *mark
        cdef uint32_t index
        for index in range(<uint32_t>MARK_COUNT):
            mark = &self.ledger.tls.marks[index]
            if mark.end_bytes <= sent_bytes:
                wanted_bytes = max(wanted_bytes, mark.answered_bytes)
        return max(0, wanted_bytes - (self.answered_bytes + self.count.data_bytes))

    @property
    def owed_count(self):
        """Requests that the server is still to answer."""
        cdef int owed_count = self.ledgers.owed_count(self.index)
        owed_bytes = self.owed_bytes
        if owed_bytes == 0:
            return 0
        if owed_count >= HEADS_TOLD_APART:
            return owed_count
        return (owed_bytes % SECTOR_BYTES + SIMPLE_REPLY_BYTES - 1) // SIMPLE_REPLY_BYTES

    def feed(self, data):
        """Take note of what the socket has brought."""
        self.count.feed(data)
