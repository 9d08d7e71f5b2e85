# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the dispatcher does with nothing to do: it looks a little longer for work, then sleeps until there is some."""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.queues.virtqueue cimport Virtqueue
from ringblk.shm.sync.atomic cimport load_acquire_32
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.sync.wakeup cimport end_sleep, prepare_sleep

cdef enum:
    POLLED_WAIT_NS = 100000   # how long a queue without a kick may wait, or what the kernel did not take

cdef uint64_t NO_TIMEOUT = <uint64_t>-1


cdef class IdleWait:
    """Waits for whatever a dispatch loop of these parts has to do."""

    def __cinit__(self, StateSegment state, Handover handover, QueueTable table, Throttle throttle, DispatcherRing ring,
                  ChainIntake intake, ResubmissionList resubmissions, LostMemory lost_memory, IdlePoll idle_poll,
                  CpuPlacement placement):
        self.state = state
        self.handover = handover
        self.table = table
        self.throttle = throttle
        self.ring = ring
        self.intake = intake
        self.resubmissions = resubmissions
        self.lost_memory = lost_memory
        self.idle_poll = idle_poll
        self.placement = placement

    cdef void wait(self) noexcept nogil:
        """Return once there may be something to do."""
        if not self._poll():
            self._sleep()
        self.ring.idle_ns = monotonic_ns()   # what it has slept was no time without a moment to spare

    cdef bint _poll(self) noexcept nogil:
        """Look for work a little longer before sleeping; True when there is some."""
        # Held to a core, it may be the driver's: looking for work would keep the driver from making some.
        if self.placement.held_cpu >= 0 or not self.idle_poll.begin():
            return False
        while True:
            if self._has_work():
                self.idle_poll.found()
                return True
            if not self.idle_poll.goes_on():
                return False

    cdef bint _has_work(self) noexcept nogil:
        """Whether a queue, a done ring or the channel has something."""
        cdef uint32_t place
        if self.handover.has_done() or self.ring.has_done() or load_acquire_32(&self.state.header.control_pending):
            return True
        if self.may_pop():
            for place in range(self.table.active_count):
                if self._may_pop_queue(self.table.active[place]) \
                        and (<Virtqueue>self.table.queues[self.table.active[place]].virtqueue).available_count() != 0:
                    return True
        return False

    cdef void _sleep(self) noexcept nogil:
        """Wait for a kick, a completion or a message; every way in is looked at once more before."""
        cdef uint32_t place
        cdef uint64_t timeout_ns = NO_TIMEOUT
        cdef bint has_work = False
        prepare_sleep(&self.state.header.dispatcher_sleeping)
        if self.may_pop():
            for place in range(self.table.active_count):
                if self._may_pop_queue(self.table.active[place]):
                    has_work |= (<Virtqueue>self.table.queues[self.table.active[place]].virtqueue).arm()
        crash_point("dispatcher: about to sleep")
        if not has_work and not self.handover.has_done() and not self.ring.has_done() \
                and not self.lost_memory.has_news() and not load_acquire_32(&self.state.header.control_pending):
            if self.throttle.has_waiting():
                timeout_ns = self.throttle.wait_ns(monotonic_ns())
            if self.table.polled_count or self.ring.has_filled:
                timeout_ns = min(timeout_ns, <uint64_t>POLLED_WAIT_NS)
            self.table.wait(timeout_ns)
        end_sleep(&self.state.header.dispatcher_sleeping)
        for place in range(self.table.active_count):
            (<Virtqueue>self.table.queues[self.table.active[place]].virtqueue).disarm()
