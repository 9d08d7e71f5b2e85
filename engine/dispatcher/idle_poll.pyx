# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Looking for new work a little longer before sleeping, on a core that nobody else wants.

A wake-up costs far more than a look, but only a free core may be spent on looking, and only where it helps.
Being held up between two looks means that somebody else wants the core: polling ends at once, and the next
polls are left out, more of them each time. So they are, though fewer, after polls that found nothing.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.sync.atomic cimport spin_hint
from ringblk.shm.sync.clock cimport monotonic_ns

cdef enum:
    HELD_UP_NS = 20000     # a gap this long between two looks
    MOST_SKIPPED = 1023
    MOST_SKIPPED_IN_VAIN = 31


cdef class IdlePoll:
    """Polls for `poll_ns` (0: never)."""

    def __init__(self, uint64_t poll_ns):
        self.poll_ns = poll_ns

    cdef bint begin(self) noexcept nogil:
        """Whether to poll now, after work was done."""
        if self.poll_ns == 0:
            return False
        if self.skip_count:
            self.skip_count -= 1
            return False
        self.start_ns = self.last_ns = monotonic_ns()
        return True

    cdef bint goes_on(self) noexcept nogil:
        """Whether to look once more."""
        cdef uint64_t now_ns
        spin_hint()
        now_ns = monotonic_ns()
        if now_ns - self.last_ns > HELD_UP_NS:
            self.last_skip = min(2 * self.last_skip + 1, <uint32_t>MOST_SKIPPED)
            self.skip_count = self.last_skip
            return False
        self.last_ns = now_ns
        if now_ns - self.start_ns > self.poll_ns:
            self.last_skip = max(min(2 * self.last_skip + 1, <uint32_t>MOST_SKIPPED_IN_VAIN), self.last_skip >> 1)
            self.skip_count = self.last_skip
            return False
        return True

    cdef void found(self) noexcept nogil:
        """There is work: the last poll was worth it."""
        self.last_skip >>= 1
