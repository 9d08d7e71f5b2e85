# Wake-up descriptors: one descriptor for who wakes and who is woken, and any number of wake-ups are one.
#
# On Linux that is an eventfd. The portable form is a FIFO without a name, which is open both ways: a wake-up is the eight
# bytes that an eventfd takes, and who is woken reads what is there. So it gets on with both, eventfds and pipes.
#
# Foreign ones are those that the other side of a vhost-user connection holds too: it may fill them, read them, and
# make them block.

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #include <poll.h>
    #include <stdint.h>
    #include <sys/uio.h>
    #include <unistd.h>
    static inline int ringblk_signal_wakeup(int fd) {
        uint64_t one = 1;
        return write(fd, &one, sizeof one) == sizeof one;
    }
    #if RINGBLK_LINUX
    static inline void ringblk_drain_wakeup(int fd) {
        uint64_t count;
        ssize_t size = read(fd, &count, sizeof count);
        (void)size;
    }
    static inline void ringblk_reset_foreign_wakeup(int fd) {
        uint64_t count;
        struct iovec buffer = { &count, sizeof count };
        ssize_t size = preadv2(fd, &buffer, 1, -1, RWF_NOWAIT);
        (void)size;
    }
    #else
    static inline void ringblk_drain_wakeup(int fd) {
        uint64_t counts[64];  /* what is left wakes once more */
        ssize_t size = read(fd, counts, sizeof counts);
        (void)size;
    }
    static inline void ringblk_reset_foreign_wakeup(int fd) {
        struct pollfd written = { fd, POLLIN, 0 };
        if (poll(&written, 1, 0) > 0 && written.revents & POLLIN)
            ringblk_drain_wakeup(fd);
    }
    #endif
    """
    bint ringblk_signal_wakeup(int fd)
    void ringblk_drain_wakeup(int fd)
    void ringblk_reset_foreign_wakeup(int fd)
    struct pollfd:
        int fd
        short events, revents
    enum: POLLOUT
    int poll(pollfd *fds, unsigned long count, int timeout_ms)


cdef inline void signal_wakeup(int fd) noexcept nogil:
    ringblk_signal_wakeup(fd)


cdef inline void drain_wakeup(int fd) noexcept nogil:
    """Block until it was written, and reset it. A signal ends the wait early."""
    ringblk_drain_wakeup(fd)


cdef inline bint signal_foreign_wakeup(int fd, bint may_block) noexcept nogil:
    """Write one that others hold as well; False where it is full.

    Whoever reads a full one has an event waiting for him already. With `may_block` it is looked at first, as a
    write would wait then; what fills it in between is ended by a signal.
    """
    cdef pollfd room
    if may_block:
        room.fd = fd
        room.events = POLLOUT
        room.revents = 0
        if poll(&room, 1, 0) == 0:
            return False
    return ringblk_signal_wakeup(fd)


cdef inline void reset_foreign_wakeup(int fd) noexcept nogil:
    """Reset it without waiting, whoever has read it first and made it block."""
    ringblk_reset_foreign_wakeup(fd)
