# Sleeping and waking between processes: a flag in shared memory and a wake-up descriptor.
#
# Who sleeps: prepare_sleep, look for work once more, block on the descriptor, end_sleep.
# Who brings work: publish it, then wake. The full fences make sure that of "flag set" and "work published"
# at least one is seen by the other side. A waker that dies between clearing the flag and the write leaves a
# sleeper asleep: whoever learns of the death wakes everybody the dead process could have owed a wake-up.

from libc.stdint cimport uint32_t

from ringblk.shm.platform.poll cimport POLLIN, poll, pollfd
from ringblk.shm.platform.wakeup_fd cimport drain_wakeup, signal_wakeup
from ringblk.shm.sync.atomic cimport exchange_32, full_fence, load_relaxed_32, store_relaxed_32
from ringblk.shm.sync.crash_point cimport crash_point


cdef inline bint wait_any(int wakeup_fd, int fd, int channel_fd) noexcept nogil:
    """Block until the wake-up descriptor was written, which resets it, `fd` is readable, or the channel's other end is closed: True.

    A negative `fd` stands for none. A signal ends the wait early.
    """
    cdef pollfd[3] waited
    waited[0].fd = wakeup_fd
    waited[1].fd = fd
    waited[2].fd = channel_fd
    waited[0].events = waited[1].events = POLLIN
    waited[2].events = 0   # POLLHUP is told of always: messages do not end the wait, they are announced
    waited[0].revents = waited[2].revents = 0
    if poll(waited, 3, -1) > 0 and waited[0].revents & POLLIN:
        drain_wakeup(wakeup_fd)
    return waited[2].revents != 0


cdef inline void prepare_sleep(uint32_t *sleeping) noexcept nogil:
    store_relaxed_32(sleeping, 1)
    crash_point("wake: sleeping set")
    full_fence()   # the flag before the last look for work; pairs with wake's fence


cdef inline void end_sleep(uint32_t *sleeping) noexcept nogil:
    store_relaxed_32(sleeping, 0)
    crash_point("wake: sleeping over")


cdef inline bint wake(uint32_t *sleeping, int wakeup_fd) noexcept nogil:
    """Wake the process that sleeps on this pair, if it does; True if it did."""
    full_fence()   # the work before the flag; pairs with prepare_sleep's fence
    if load_relaxed_32(sleeping) == 0 or exchange_32(sleeping, 0) == 0:
        return False
    crash_point("wake: flag cleared")
    signal_wakeup(wakeup_fd)
    crash_point("wake: signalled")
    return True
