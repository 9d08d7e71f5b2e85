# Sleeping and waking between processes: a flag in shared memory and an eventfd.
#
# Who sleeps: prepare_sleep, look for work once more, block on the eventfd, end_sleep.
# Who brings work: publish it, then wake. The full fences make sure that of "flag set" and "work published"
# at least one is seen by the other side. A waker that dies between clearing the flag and the write leaves a
# sleeper asleep: whoever learns of the death wakes everybody the dead process could have owed a wake-up.

from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport read, write

from ringblk.shm.sync.atomic cimport exchange_32, full_fence, load_relaxed_32, store_relaxed_32
from ringblk.shm.sync.crash_point cimport crash_point

cdef extern from "<poll.h>" nogil:
    enum: POLLIN
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *waited, unsigned long count, int timeout_ms)


cdef inline void signal_eventfd(int eventfd) noexcept nogil:
    cdef uint64_t one = 1
    write(eventfd, &one, sizeof(one))


cdef inline void drain_eventfd(int eventfd) noexcept nogil:
    """Block until the eventfd was written, and reset it. A signal ends the wait early."""
    cdef uint64_t count
    read(eventfd, &count, sizeof(count))


cdef inline bint wait_any(int eventfd, int fd, int channel_fd) noexcept nogil:
    """Block until the eventfd was written, which resets it, `fd` is readable, or the channel's other end is closed: True.

    A negative `fd` stands for none. A signal ends the wait early.
    """
    cdef pollfd[3] waited
    waited[0].fd = eventfd
    waited[1].fd = fd
    waited[2].fd = channel_fd
    waited[0].events = waited[1].events = POLLIN
    waited[2].events = 0   # POLLHUP is told of always: messages do not end the wait, they are announced
    waited[0].revents = waited[2].revents = 0
    if poll(waited, 3, -1) > 0 and waited[0].revents & POLLIN:
        drain_eventfd(eventfd)
    return waited[2].revents != 0


cdef inline void prepare_sleep(uint32_t *sleeping) noexcept nogil:
    store_relaxed_32(sleeping, 1)
    crash_point("wake: sleeping set")
    full_fence()   # the flag before the last look for work; pairs with wake's fence


cdef inline void end_sleep(uint32_t *sleeping) noexcept nogil:
    store_relaxed_32(sleeping, 0)
    crash_point("wake: sleeping over")


cdef inline bint wake(uint32_t *sleeping, int eventfd) noexcept nogil:
    """Wake the process that sleeps on this pair, if it does; True if it did."""
    full_fence()   # the work before the flag; pairs with prepare_sleep's fence
    if load_relaxed_32(sleeping) == 0 or exchange_32(sleeping, 0) == 0:
        return False
    crash_point("wake: flag cleared")
    signal_eventfd(eventfd)
    crash_point("wake: signalled")
    return True
