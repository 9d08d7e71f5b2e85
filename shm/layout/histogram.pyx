# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Histograms of times as Python reads them: a copy, taken without stopping who writes.

The writer's side is inline in `histogram.pxd`. A copy taken while the writer is at work is a value or two
behind in some buckets, never wrong by more.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from ringblk.shm.sync.atomic cimport load_relaxed_64

RELATIVE_ERROR = 1.0 / SUB_BUCKETS
"""A value read from a histogram is off by at most this part of itself."""
BUCKETS = BUCKET_COUNT


cdef uint64_t lower_bound(uint32_t index) noexcept nogil:
    cdef uint32_t group
    if index < SUB_BUCKETS:
        return index
    group = index // SUB_BUCKETS - 1
    return <uint64_t>(index - SUB_BUCKETS * group) << group


cdef class Histogram:
    """Counts of times in nanoseconds by bucket. Can be added up, and subtracted from a later copy."""

    def __cinit__(self):
        memset(self.counts, 0, sizeof(self.counts))

    @staticmethod
    cdef Histogram of(const HistogramState *state):
        """Copy what stands in shared memory now."""
        cdef Histogram copy = Histogram.__new__(Histogram)
        cdef uint32_t index
        for index in range(<uint32_t>BUCKET_COUNT):
            copy.counts[index] = load_relaxed_64(&state.counts[index])
        copy._sum_ns = load_relaxed_64(&state.sum_ns)
        return copy

    def record(self, uint64_t value_ns, uint64_t count=1):
        """Count a value, as often as `count` says."""
        self.counts[bucket_index(value_ns)] += count
        self._sum_ns += value_ns * count

    @property
    def count(self):
        """How many values there are."""
        cdef uint32_t index
        cdef uint64_t total = 0
        for index in range(<uint32_t>BUCKET_COUNT):
            total += self.counts[index]
        return total

    @property
    def sum_ns(self):
        """All values together."""
        return self._sum_ns

    @property
    def mean_ns(self):
        """The mean, exact; 0 if there are no values."""
        return self._sum_ns / <double>self.count if self.count else 0.0

    def percentile(self, double percent):
        """A value that `percent` of all values do not exceed, within RELATIVE_ERROR; 0 if there are none."""
        cdef uint64_t total = self.count, seen = 0
        cdef uint64_t wanted = <uint64_t>(total * percent / 100)
        cdef uint32_t index
        if total == 0:
            return 0
        if wanted < total * percent / 100 or wanted == 0:
            wanted += 1
        for index in range(<uint32_t>BUCKET_COUNT):
            seen += self.counts[index]
            if seen >= wanted:
                break
        return (lower_bound(index) + lower_bound(index + 1)) // 2 if index >= SUB_BUCKETS else index

    def merge(self, Histogram other):
        """Add all values of another histogram."""
        cdef uint32_t index
        for index in range(<uint32_t>BUCKET_COUNT):
            self.counts[index] += other.counts[index]
        self._sum_ns += other._sum_ns

    def since(self, Histogram earlier):
        """What came after `earlier`, a copy of the same histogram."""
        cdef Histogram rest = Histogram.__new__(Histogram)
        cdef uint32_t index
        for index in range(<uint32_t>BUCKET_COUNT):
            if self.counts[index] > earlier.counts[index]:
                rest.counts[index] = self.counts[index] - earlier.counts[index]
        rest._sum_ns = self._sum_ns - earlier._sum_ns if self._sum_ns > earlier._sum_ns else 0
        return rest

    def counts_below(self, bounds_ns):
        """How many values lie below each of these ascending bounds; exact for powers of two."""
        cdef uint32_t index = 0
        cdef uint64_t seen = 0, bound_ns
        found = []
        for bound_ns in bounds_ns:
            while index < BUCKET_COUNT and lower_bound(index) < bound_ns:
                seen += self.counts[index]
                index += 1
            found.append(seen)
        return found
