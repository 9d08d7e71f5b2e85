# What the connections of a drive owe, in memory that outlives the process that uses them.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/socket.h>
    """
    struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout)
    enum: MSG_DONTWAIT, MSG_NOSIGNAL

cdef enum:
    CONNECTION_LIMIT = 8      # of one drive
    LEDGER_DEPTH = 256        # requests under way on one connection
    RECEIVE_BYTES = 1 << 17   # of the stream of replies, as it came
    MARK_COUNT = 2 * LEDGER_DEPTH   # so that one of a request that was sent is always among them

cdef struct Transfer:
    # One call that moves bytes; the kernel writes into it how many, before the call ends.
    uint64_t before_bytes     # of the stream, when it began
    mmsghdr message

cdef struct Direction:
    uint32_t current          # which of the two counts
    Transfer transfers[2]

cdef struct Debt:
    uint64_t end_bytes        # of the stream of requests: the server has it when so many were sent
    uint32_t length_bytes     # of the data that its answer brings
    uint16_t is_owed          # whether it was queued and not answered
    uint16_t command

cdef struct TlsMark:
    # A request of an encrypted connection, in the order of sending.
    uint64_t end_bytes        # of the stream of requests: the server can read it when so many were sent
    uint64_t answered_bytes   # how much data all answers have up to its own

cdef struct TlsPlace:
    uint64_t stream_bytes     # of the stream of replies: where a record ends
    uint64_t answered_bytes   # how much of the answers' data has come up to there

cdef struct TlsLedger:
    # Of an encrypted connection: both streams are those of its records, and nobody but the dead process could read them.
    uint32_t overhead_bytes   # how much longer a record is than what is in it; 0: this is no such connection
    uint32_t current          # which of the places counts
    TlsPlace places[2]
    TlsMark marks[MARK_COUNT]

cdef struct ConnectionLedger:
    uint32_t generation       # which connection it is of; the mailbox has its socket under the same number
    uint64_t boundary_bytes   # of the stream of replies: where the first head begins that was not taken note of
    Direction sent
    Direction received
    Debt debts[LEDGER_DEPTH]  # by cookie
    uint8_t stream[RECEIVE_BYTES]   # what was received into it, by place in the stream; data may have gone elsewhere
    TlsLedger tls

cdef struct DriveLedger:
    uint32_t user             # which process of the drive has the connections (`Ledger.user`)
    # What that process has said of them last, for whoever asks; all numbers are of the process that has them now.
    uint32_t ready_count      # connections that there are
    uint32_t request_count    # that were begun and are not done
    int32_t error             # of the last that was lost, or could not be made; a positive errno
    uint64_t changed_ns       # since when there is any connection, or none; by the monotonic clock
    uint64_t size_bytes       # of the export, in whole sectors
    ConnectionLedger connections[CONNECTION_LIMIT]


cdef class Ledger:
    cdef readonly int fd
    cdef object view
    cdef DriveLedger *drive
    cdef ConnectionLedger *connections


cdef inline uint64_t total_bytes(Direction *direction) noexcept nogil:
    """How many bytes have gone this way so far: exactly, at any instruction of the process that moves them."""
    return direction.transfers[direction.current].before_bytes + direction.transfers[direction.current].message.msg_len


cdef inline mmsghdr *next_transfer(Direction *direction) noexcept nogil:
    """The message for the next call. The one before it counts until this one does, with nothing moved yet."""
    cdef uint32_t other = 1 - direction.current
    direction.transfers[other].before_bytes = total_bytes(direction)
    direction.transfers[other].message.msg_len = 0
    set_current(direction, other)
    return &direction.transfers[other].message


cdef void begin_connection(ConnectionLedger *ledger) noexcept nogil
cdef void set_current(Direction *direction, uint32_t other) noexcept nogil
