# What a drive has drawn from its limit and not used; meaning and derivation are told in account.pyx.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ringblk.shm.rates.limit cimport BUCKET_COUNT, RateLimit, RateLimitState, amount_for

cdef enum:
    AMOUNT_LIMIT = 0x1000000000000   # tokens (2^48); what is more is charged as this


cdef struct Drawing:
    # What a process knows of a bucket's terms, and the piece that it has reserved there.
    uint64_t origin          # of the terms
    int64_t burst
    int64_t quantum
    int64_t ahead            # AHEAD_S seconds' worth
    int64_t piece            # reserved, not to be used before ready_ns; 0: none
    uint64_t ready_ns


cdef class RateAccount:
    cdef RateLimit limit
    cdef RateLimit own_limit
    cdef RateLimitState *buckets    # drawn from: the drive's own, or its group's
    cdef RateLimitState *own        # where the credit is kept: in the drive's segment
    cdef bint is_shared
    cdef Drawing drawings[BUCKET_COUNT]

    cdef uint64_t refresh(self) noexcept nogil
    cdef void settle(self, uint64_t now_ns) noexcept nogil
    cdef bint draw(self, uint32_t index, int64_t missing, uint64_t now_ns) noexcept nogil
    cdef void charge(self, uint64_t mask, uint64_t size_bytes) noexcept nogil
    cdef void trim(self) noexcept nogil
    cdef bint pay_debt(self, uint64_t now_ns) noexcept nogil
    cdef uint64_t next_ns(self) noexcept nogil
    cdef void _learn(self, uint32_t index) noexcept nogil

    cdef inline int64_t cost(self, uint32_t index, uint64_t size_bytes) noexcept nogil:
        # Of a request, in tokens of a bucket.
        cdef uint64_t amount = amount_for(index, size_bytes)
        return <int64_t>(amount if amount < AMOUNT_LIMIT else <uint64_t>AMOUNT_LIMIT)

    cdef inline int64_t need(self, uint32_t index, int64_t cost) noexcept nogil:
        # The credit with which a request of this cost may begin.
        return cost if cost < self.drawings[index].burst else self.drawings[index].burst
