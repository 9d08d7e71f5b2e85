# A drive's six token buckets in shared memory; meaning and use are told in limit.pyx.

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.sync.atomic cimport load_acquire_64
from ringblk.shm.rates.token_bucket cimport BucketState

cdef enum BucketIndex:
    BYTES_TOTAL = 0
    BYTES_READ = 1
    BYTES_WRITE = 2
    OPS_TOTAL = 3
    OPS_READ = 4
    OPS_WRITE = 5
    BUCKET_COUNT = 6

cdef enum ChargeKind:
    CHARGE_READ = (1 << BYTES_TOTAL) | (1 << BYTES_READ) | (1 << OPS_TOTAL) | (1 << OPS_READ)
    CHARGE_WRITE = (1 << BYTES_TOTAL) | (1 << BYTES_WRITE) | (1 << OPS_TOTAL) | (1 << OPS_WRITE)
    CHARGE_OTHER = 1 << OPS_TOTAL   # FLUSH, GET_ID: an operation, no bytes

cdef enum:
    BYTES_MASK = (1 << BYTES_TOTAL) | (1 << BYTES_READ) | (1 << BYTES_WRITE)
    RATE_LIMIT_ALIGN_BYTES = 64
    RATE_LIMIT_STATE_BYTES = 1216


cdef struct RateLimitState:
    # 1216 bytes, aligned to 64. All zero is no limit.
    uint64_t limited_mask    # 1 << index of each bucket that has a limit
    uint64_t debt_mask       # of a drive's own segment alone: where it owes for what was let go (account.pyx)
    uint64_t reserved[6]
    BucketState buckets[6]


cdef inline bint rate_limit_applies(const RateLimitState *state, uint64_t kind) noexcept nogil:
    return (load_acquire_64(&state.limited_mask) & kind) != 0


cdef inline uint64_t amount_for(uint64_t index, uint64_t size_bytes) noexcept nogil:
    return size_bytes if (BYTES_MASK >> index) & 1 else 1


cdef uint64_t rate_limit_acquire(RateLimitState *state, uint64_t kind, uint64_t size_bytes,
                                 uint64_t now_ns) noexcept nogil

cdef class RateLimit:
    cdef RateLimitState *state
    cdef object buffer       # keeps the mapping alive
