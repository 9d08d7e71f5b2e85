# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The queues that a dispatcher serves, waiting for their kicks, and calling their drivers.

Kick, call and error are wake-up descriptors (the session sees to that) of which the front end may do what it likes.
Kicks are waited for as events: one that nobody has read wakes nobody twice. A call that finds its descriptor full is
left out.
"""

import fcntl
import os

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from ringblk.shm.platform.poll cimport poll, pollfd
from ringblk.shm.platform.wait_set cimport (
    WAIT_HANG_UP, WAIT_LIMIT, WAIT_READABLE, WAIT_WAKEUP, WaitFor, add_wait, close_wait_set, open_wait_set, remove_wait,
    tidy_wait_set, wait_for_any,
)
from ringblk.shm.platform.wakeup_fd cimport signal_foreign_wakeup
from ringblk.shm.sync.atomic cimport load_acquire_32, store_relaxed_32
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.state.segment cimport QUEUE_LIMIT, QueueState, StateSegment
from ringblk.shm.queues.virtqueue cimport Virtqueue

cdef enum:
    CONTROL = QUEUE_LIMIT + 1       # the tag of the channel; QUEUE_LIMIT: of all else but kicks
    LOOK_ROUNDS = 64                # so often a loop that never waits looks at the channel's other end


cdef class QueueTable:
    """Queues by index. `wake_eventfd` ends a wait as a kick does."""

    def __cinit__(self, StateSegment state, int wake_eventfd):
        cdef uint32_t index
        self.state = state
        self.owners = [None] * QUEUE_LIMIT
        memset(self.queues, 0, sizeof(self.queues))
        for index in range(<uint32_t>QUEUE_LIMIT):
            self.queues[index].kick_fd = self.queues[index].call_fd = self.queues[index].err_fd = -1
        if open_wait_set(&self.waited) < 0:
            raise OSError("descriptors cannot be waited for")
        self.channel_fd = -1
        self._watch(wake_eventfd, WAIT_WAKEUP, QUEUE_LIMIT)

    def watch(self, int fd):
        """End a wait when this descriptor becomes readable, too. Whoever is told then reads it."""
        self._watch(fd, WAIT_READABLE, QUEUE_LIMIT)

    def watch_channel(self, int fd):
        """End a wait when this channel's other end is closed: that is a message to be read. Others are announced.

        It takes the place of another, which is closed; -1: there is none now.
        """
        if fd >= 0:
            self._watch(fd, WAIT_HANG_UP, CONTROL)
        self.channel_fd = fd

    def watch_control(self, int fd):
        """End a wait when this descriptor becomes readable: that is a message to be read, though not announced."""
        self._watch(fd, WAIT_READABLE, CONTROL)

    cdef int _watch(self, int fd, WaitFor what, uint64_t tag) except -1:
        if add_wait(&self.waited, fd, what, tag) < 0:
            raise OSError(f"descriptor {fd} cannot be waited for")
        return 0

    def __dealloc__(self):
        close_wait_set(&self.waited)

    def add_queue(self, Virtqueue virtqueue, fds, bint is_enabled):
        """Serve a queue that was resumed (`fds` as in `set_fds`)."""
        cdef uint32_t queue_index = virtqueue.queue_index
        cdef ServedQueue *queue = &self.queues[queue_index]
        assert virtqueue.recovered is not None, "a queue that was not resumed"
        self.owners[queue_index] = virtqueue
        queue.virtqueue = <PyObject *>virtqueue
        queue.is_enabled = is_enabled
        queue.is_draining = False
        queue.kick_fd = queue.call_fd = queue.err_fd = -1
        if self.state.queues[queue_index].is_broken:
            virtqueue.mark_broken(self.state.queues[queue_index].is_broken)
        try:
            self.set_fds(queue_index, fds)
        except OSError:
            queue.kick_fd = -1
            self.remove_queue(queue_index)
            raise

    def set_fds(self, uint32_t queue_index, fds):
        """Use these `QueueFds` from now on. They stay the caller's."""
        cdef ServedQueue *queue = &self.queues[queue_index]
        if queue.kick_fd >= 0:
            remove_wait(&self.waited, queue.kick_fd)
        queue.kick_fd = -1 if fds.kick is None else fds.kick
        queue.call_fd = -1 if fds.call is None else fds.call
        queue.err_fd = -1 if fds.err is None else fds.err
        queue.unheard = 0
        queue.call_may_block = fds.call is not None and not fcntl.fcntl(fds.call, fcntl.F_GETFL) & os.O_NONBLOCK
        if queue.kick_fd >= 0 and add_wait(&self.waited, queue.kick_fd, WAIT_WAKEUP, queue_index) < 0:
            queue.kick_fd = -1
            self.list_active()
            raise OSError(f"queue {queue_index}: its kick descriptor cannot be waited for")
        self.list_active()
        self.call(queue_index)

    def set_enabled(self, uint32_t queue_index, bint is_enabled):
        """Pop from the queue, or leave what it offers alone."""
        self.queues[queue_index].is_enabled = is_enabled
        self.list_active()

    def set_paused(self, bint is_paused):
        """Pop from no queue at all, or again from those that are enabled."""
        self.is_paused = is_paused
        self.list_active()

    def remove_queue(self, uint32_t queue_index):
        """Forget a queue that has nothing in flight; returns its next_avail and mends its broken state."""
        cdef ServedQueue *queue = &self.queues[queue_index]
        assert queue.virtqueue != NULL, "a queue that is not served"
        next_avail = self.owners[queue_index].next_avail
        if queue.kick_fd >= 0:
            remove_wait(&self.waited, queue.kick_fd)
        queue.kick_fd = queue.call_fd = queue.err_fd = -1
        queue.virtqueue = NULL
        self.owners[queue_index] = None
        self.state.queues[queue_index].is_broken = 0
        self.list_active()
        return next_avail

    def is_served(self, uint32_t queue_index):
        """Whether the queue is in the table."""
        return self.queues[queue_index].virtqueue != NULL

    def virtqueue(self, uint32_t queue_index):
        """The queue of that index; None where it is not served."""
        return self.owners[queue_index]

    cdef bint has_control(self) noexcept nogil:
        """Whether a message waits on the channel; that it is closed at its other end is seen now and then."""
        cdef pollfd channel
        self.round_count += 1
        if self.round_count % LOOK_ROUNDS == 0:
            tidy_wait_set(&self.waited)
            channel.fd = self.channel_fd   # a negative one is passed over
            channel.events = 0   # POLLHUP is told of always
            if poll(&channel, 1, 0) > 0:
                self.note_left_alone()
        # Acquire: pairs with announce_control's release, after the message was sent.
        return load_acquire_32(&self.state.header.control_pending) != 0

    cdef void note_left_alone(self) noexcept nogil:
        """Nobody is at the channel's other end any more: have it read."""
        store_relaxed_32(&self.state.header.control_pending, 1)

    def remap(self):
        """Find all rings again after the memory table changed. Raises `RingError`."""
        for owner in self.owners:
            if owner is not None:
                owner.remap()

    def call(self, uint32_t queue_index):
        """Call the driver, whether it asked for it or not: a call may have been lost with its caller."""
        if self.queues[queue_index].call_fd >= 0:
            self.signal_call(queue_index)
            crash_point("recovery: called")

    cdef void call_if_needed(self, uint32_t queue_index) noexcept nogil:
        """Call the driver, unless it has said that it needs no call."""
        cdef QueueState *counters = &self.state.queues[queue_index]
        if not (<Virtqueue>self.queues[queue_index].virtqueue).needs_call():
            counters.suppressed_call_count += 1
        elif self.queues[queue_index].call_fd >= 0:
            counters.call_count += 1
            self.signal_call(queue_index)
            crash_point("dispatcher: called")

    cdef void signal_call(self, uint32_t queue_index) noexcept nogil:
        cdef ServedQueue *queue = &self.queues[queue_index]
        if signal_foreign_wakeup(queue.call_fd, queue.call_may_block) or queue.unheard:
            return
        queue.call_may_block = True
        queue.unheard = 1
        self.newly_unheard = True

    def take_unheard(self):
        """The queues whose drivers could not be called; each once for the fds that it has."""
        unheard = [index for index in range(QUEUE_LIMIT) if self.queues[index].unheard == 1]
        for index in unheard:
            self.queues[index].unheard = 2
        self.newly_unheard = False
        return unheard

    def signal_error(self, uint32_t queue_index):
        """Tell the front end that the queue is broken, where it wants to hear of it."""
        if self.queues[queue_index].err_fd >= 0:
            signal_foreign_wakeup(self.queues[queue_index].err_fd, True)

    def inflight_count(self, uint32_t queue_index):
        """Requests of the queue that were popped and not given back."""
        return 0 if self.owners[queue_index] is None else self.owners[queue_index].inflight_count

    cdef void list_active(self) noexcept:
        cdef uint32_t index
        self.active_count = 0
        self.polled_count = 0
        for index in range(<uint32_t>QUEUE_LIMIT):
            if not self.is_paused and self.queues[index].virtqueue != NULL and self.queues[index].is_enabled \
                    and (<Virtqueue>self.queues[index].virtqueue).broken == 0:
                self.active[self.active_count] = index
                self.active_count += 1
                self.polled_count += self.queues[index].kick_fd < 0

    cdef void wait(self, uint64_t timeout_ns) noexcept nogil:
        """Wait for a kick or a wake-up; the largest timeout is none."""
        cdef uint64_t tags[WAIT_LIMIT]
        cdef QueueState *counters
        cdef int index
        for index in range(wait_for_any(&self.waited, tags, timeout_ns)):
            if tags[index] < QUEUE_LIMIT:
                counters = &self.state.queues[tags[index]]
                counters.kick_count += 1
            elif tags[index] == CONTROL:
                self.note_left_alone()
