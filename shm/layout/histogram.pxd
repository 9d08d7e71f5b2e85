# Log-linear histograms of times: 64 buckets for each power of two, so a bucket is at most 1/64 (1.6 %) wide.
#
# Bucket i < 128 holds exactly i ns; above, group g holds values from 2^(g+6) to 2^(g+7) in steps of 2^g. The
# last bucket also holds whatever is longer: nine minutes and more.

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.sync.atomic cimport store_relaxed_64

cdef extern from * nogil:
    """
    static inline int ringblk_log2(unsigned long long value) { return 63 - __builtin_clzll(value); }
    """
    int floor_log2 "ringblk_log2"(uint64_t value)   # value is not 0

cdef enum:
    SUB_BUCKET_BITS = 6
    SUB_BUCKETS = 1 << SUB_BUCKET_BITS
    VALUE_BITS = 39
    BUCKET_COUNT = SUB_BUCKETS * (VALUE_BITS - SUB_BUCKET_BITS + 1)


cdef struct HistogramState:
    # One writer, relaxed stores. The count of all values is the sum of the buckets.
    uint64_t sum_ns
    uint64_t reserved
    uint64_t counts[BUCKET_COUNT]


cdef inline uint32_t bucket_index(uint64_t value_ns) noexcept nogil:
    cdef int group
    if value_ns < SUB_BUCKETS:
        return <uint32_t>value_ns
    if value_ns >> VALUE_BITS:
        return BUCKET_COUNT - 1
    group = floor_log2(value_ns) - SUB_BUCKET_BITS
    # (value >> group) is from 64 to 127, so group g begins at bucket 64 * (g + 1).
    return <uint32_t>(SUB_BUCKETS * group + (value_ns >> group))


cdef inline void histogram_record(HistogramState *histogram, uint64_t value_ns) noexcept nogil:
    cdef uint64_t *count = &histogram.counts[bucket_index(value_ns)]
    store_relaxed_64(count, count[0] + 1)
    store_relaxed_64(&histogram.sum_ns, histogram.sum_ns + value_ns)


cdef class Histogram:
    cdef uint64_t _sum_ns
    cdef uint64_t counts[BUCKET_COUNT]

    cdef inline void add_ns(self, uint64_t value_ns) noexcept nogil:
        self.counts[bucket_index(value_ns)] += 1
        self._sum_ns += value_ns

    @staticmethod
    cdef Histogram of(const HistogramState *state)
