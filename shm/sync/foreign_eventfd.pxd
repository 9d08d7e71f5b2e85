# Eventfds that the other side of a vhost-user connection holds too: it may fill them, read them, and make them block.

from libc.stdint cimport uint64_t
from posix.types cimport off_t
from posix.uio cimport iovec
from posix.unistd cimport write

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLOUT
    int poll(pollfd *fds, unsigned long fd_count, int timeout_ms)


cdef extern from "sys/uio.h" nogil:
    int RWF_NOWAIT
    ssize_t preadv2(int fd, const iovec *buffers, int buffer_count, off_t offset, int flags)


cdef inline bint signal_foreign_eventfd(int eventfd, bint may_block) noexcept nogil:
    """Write an eventfd that others hold as well; False where its counter is full.

    Whoever reads a full one has an event waiting for him already. With `may_block` it is looked at first, as a
    write would wait then (eventfd(2)); what fills it in between is ended by a signal.
    """
    cdef pollfd room
    cdef uint64_t one = 1
    if may_block:
        room.fd = eventfd
        room.events = POLLOUT
        room.revents = 0
        if poll(&room, 1, 0) == 0:
            return False
    return write(eventfd, &one, sizeof(one)) == sizeof(one)


cdef inline void reset_foreign_eventfd(int eventfd) noexcept nogil:
    """Reset it without waiting, whoever has read it first and made it block."""
    cdef uint64_t count
    cdef iovec buffer
    buffer.iov_base = &count
    buffer.iov_len = sizeof(count)
    preadv2(eventfd, &buffer, 1, -1, RWF_NOWAIT)
