# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which core the dispatcher runs on while requests come one at a time.

With one request in flight driver and dispatcher take turns, so that two cores are of no use, and waking the
other one costs more than the request (docs/performance.md). On the driver's own core a wake-up is a context
switch. Nobody tells which core that is, and being there is not always better: so each core is tried for some
round trips, and the dispatcher is held to the quickest if that is no slower than being held to none.
It leaves as soon as requests come several at a time, or when the trips take longer than they did.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ringblk.shm.platform.cpus cimport hold_to_cpus
from ringblk.shm.sync.clock cimport monotonic_ns

cdef enum:
    NO_TRIAL = -1
    TRIAL_TRIPS = 128         # round trips on each core before the next is tried
    WINDOW_TRIPS = 1024       # round trips after which a choice is looked at again
    LONG_TRIP_NS = 500000     # with trips of half of it, it does not matter where the dispatcher is
    FIRST_INTERVAL_NS = 20000000
    LAST_INTERVAL_NS = 4000000000
    HELD_NS = 4000000000      # then all is measured again
    DEEP_WEIGHT = 8           # of a round with several requests, against one with a single
    DEEP_LIMIT = 64

cdef uint64_t NEVER = (<uint64_t>1) << 63


cdef class CpuPlacement:
    """Moves the calling process between `cpus`, those it may run on. With fewer than two it does nothing."""

    def __cinit__(self, cpus):
        cpus = sorted(cpus)
        self.cpu_count = len(cpus)
        self.cpus = <int *>calloc(self.cpu_count + 1, sizeof(int))
        if self.cpus == NULL:
            raise MemoryError
        for index, cpu in enumerate(cpus):
            self.cpus[index] = cpu
        self.held_cpu = -1
        self.trial = NO_TRIAL
        self.least_trip_ns = NEVER
        self.trial_interval_ns = FIRST_INTERVAL_NS
        self.depth_score = DEEP_LIMIT

    def __dealloc__(self):
        free(self.cpus)

    cdef void note_completed(self, uint32_t completed_count, uint32_t inflight_count) noexcept nogil:
        """Learn from a batch that was published, and from how many requests were still under way then."""
        if self.cpu_count < 2:
            return
        if completed_count == 1 and inflight_count == 0:
            self._note_trip(monotonic_ns())
        elif self.depth_score < DEEP_LIMIT or self.held_cpu >= 0:
            self._note_depth(monotonic_ns())
        else:
            self.trip_began_ns = 0

    cdef void _note_depth(self, uint64_t now_ns) noexcept nogil:
        """There were several requests at a time; when that goes on, no core is better than another."""
        self.trip_began_ns = 0   # what comes next is no round trip from here
        self.depth_score = min(self.depth_score + DEEP_WEIGHT, <uint32_t>DEEP_LIMIT)
        if self.depth_score == DEEP_LIMIT and (self.held_cpu >= 0 or self.trial != NO_TRIAL):
            self._leave(now_ns)

    cdef void _note_trip(self, uint64_t now_ns) noexcept nogil:
        """There was one request, the only one, and it is done."""
        if self.depth_score:
            self.depth_score -= 1
        if self.trip_began_ns:
            # A driver that has nothing to ask for makes a trip long, which says nothing of the core.
            self.trips_ns += min(now_ns - self.trip_began_ns, <uint64_t>LONG_TRIP_NS)
            self.trip_count += 1
        self.trip_began_ns = now_ns
        if self.trial != NO_TRIAL:
            # A core that is worse than the best one is left as soon as that is known.
            if self.trip_count >= TRIAL_TRIPS or self.trips_ns > self.best_ns:
                self._end_trial(now_ns)
        elif self.trip_count >= WINDOW_TRIPS:
            self._end_window(now_ns)

    def note_trip(self, uint64_t now_ns):
        """As `note_completed` of a single request, at a time given."""
        self._note_trip(now_ns)

    def note_depth(self, uint64_t now_ns):
        """As `note_completed` of several, at a time given."""
        self._note_depth(now_ns)

    cdef void _end_window(self, uint64_t now_ns) noexcept nogil:
        """Held: stay while trips are no longer than elsewhere. Else: try the cores, if it is time to."""
        if self.held_cpu >= 0:
            if self.trips_ns > self.roaming_ns:
                self._leave(now_ns)
                return
            if now_ns > self.held_since_ns + HELD_NS:   # what was measured then may not be so now
                self._start(NO_TRIAL, -1)
                self.next_trial_ns = now_ns
                return
            self.trial_interval_ns = FIRST_INTERVAL_NS
        else:
            self.roaming_ns = self.trips_ns
            if self.depth_score == 0 and self._is_worth_a_trial(now_ns):
                # A core that is only as good is taken too: the next move might be to a worse one.
                self.best_ns = self.roaming_ns * TRIAL_TRIPS // WINDOW_TRIPS
                self.best_cpu = -1
                self.least_trip_ns = NEVER
                self._start(0, self.cpus[0])
                return
        self.trip_count = 0
        self.trips_ns = 0

    cdef bint _is_worth_a_trial(self, uint64_t now_ns) noexcept nogil:
        """Whether this window's trips may be shorter elsewhere: after a while, or where that was seen before."""
        cdef uint64_t trip_ns = self.trips_ns // WINDOW_TRIPS
        if 2 * trip_ns > LONG_TRIP_NS:
            return False
        return now_ns >= self.next_trial_ns or trip_ns > self.least_trip_ns + self.least_trip_ns // 4

    cdef void _end_trial(self, uint64_t now_ns) noexcept nogil:
        """Take the result in, and go on with the next core or with the best one."""
        self.least_trip_ns = min(self.least_trip_ns, self.trips_ns // self.trip_count)
        if self.trips_ns <= self.best_ns:
            self.best_ns = self.trips_ns
            self.best_cpu = self.cpus[self.trial]
        if self.trial + 1 < <int>self.cpu_count:
            self._start(self.trial + 1, self.cpus[self.trial + 1])
        elif self.best_cpu < 0:
            self._leave(now_ns)
        else:
            self._start(NO_TRIAL, self.best_cpu)
            self.held_since_ns = now_ns

    cdef void _start(self, int trial, int cpu) noexcept nogil:
        """Begin to measure trips on a core, as a trial or (NO_TRIAL) to stay; -1: on any."""
        self.trial = trial
        self._go_to(cpu)
        self.trip_count = 0
        self.trips_ns = 0
        self.trip_began_ns = 0

    cdef void _leave(self, uint64_t now_ns) noexcept nogil:
        """Run anywhere; each time it takes longer until cores are tried again."""
        self._start(NO_TRIAL, -1)
        self.next_trial_ns = now_ns + self.trial_interval_ns
        self.trial_interval_ns = min(2 * self.trial_interval_ns, <uint64_t>LAST_INTERVAL_NS)

    cdef void _go_to(self, int cpu) noexcept nogil:
        """Be held to one core, or (-1) to none."""
        if cpu == self.held_cpu:
            return
        # A refusal (the core went away) leaves it where it was; the trips show what that is worth.
        if hold_to_cpus(self.cpus if cpu < 0 else &cpu, self.cpu_count if cpu < 0 else 1) or cpu < 0:
            self.held_cpu = cpu
