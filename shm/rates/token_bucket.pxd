# A token bucket in shared memory; the layout and the functions that need no interpreter.
# What they mean and why they are right is the opening comment of token_bucket.pyx.

from libc.stdint cimport int64_t, uint64_t

from ringblk.shm.sync.atomic cimport load_acquire_64

cdef enum:
    BUCKET_ALIGN_BYTES = 64
    BUCKET_STATE_BYTES = 192


cdef struct TermsWords:
    # One set of parameters, 64 bytes. Written by the one who configures while it is not in use,
    # read by all who draw.
    uint64_t rate_units      # refilled each second; 0: no limit
    uint64_t burst_units
    uint64_t one_time_units
    uint64_t start_ns        # when these terms began, with a full bucket
    uint64_t origin          # the word's position at start_ns
    uint64_t shift_up        # an amount in units: (amount << shift_up) >> shift_down, rounded up
    uint64_t shift_down
    uint64_t max_amount      # in tokens; what is larger is charged as this


cdef struct BucketState:
    # 192 bytes, aligned to 64. All zero is a bucket without a limit.
    uint64_t word            # bit 0: which terms are in use; bits 1..63: the position
    # Of a drive's own segment alone: what the drive has drawn and not used (account.pyx). Its dispatcher writes.
    int64_t credit
    uint64_t credit_origin   # the terms that it was drawn under
    uint64_t reserved[5]
    TermsWords terms[2]


cdef struct Draw:
    # An acquisition worked out from one reading of the word; once made, what a refund needs.
    uint64_t word_before
    uint64_t word_after
    uint64_t units
    uint64_t origin
    uint64_t wait_ns


cdef struct BucketView:
    # One set of terms in tokens, as whoever draws in pieces needs it.
    uint64_t origin          # which terms these are
    uint64_t burst
    uint64_t rate            # tokens a second, rounded down


cdef inline uint64_t bucket_origin(const BucketState *state) noexcept nogil:
    # A word and a set that do not belong together give an origin that is not the bucket's: look again with bucket_view.
    return load_acquire_64(&state.terms[load_acquire_64(&state.word) & 1].origin)


cdef inline bint bucket_is_limited(const BucketState *state) noexcept nogil:
    return load_acquire_64(&state.terms[load_acquire_64(&state.word) & 1].rate_units) != 0


cdef uint64_t bucket_wait(BucketState *state, uint64_t amount, uint64_t now_ns) noexcept nogil
cdef uint64_t bucket_acquire(BucketState *state, uint64_t amount, uint64_t now_ns, Draw *draw) noexcept nogil
cdef uint64_t bucket_reserve(BucketState *state, uint64_t amount, uint64_t now_ns, Draw *draw) noexcept nogil
cdef void bucket_refund(BucketState *state, const Draw *draw) noexcept nogil
cdef void bucket_view(const BucketState *state, uint64_t most, BucketView *view) noexcept nogil
cdef void bucket_configure(BucketState *state, const TermsWords *terms) noexcept nogil
cdef bint bucket_has_terms(const BucketState *state, const TermsWords *terms) noexcept nogil
cdef int read_terms(object settings, uint64_t now_ns, TermsWords *terms) except -1


cdef class TokenBucket:
    cdef BucketState *state
    cdef object buffer       # keeps the mapping alive
    cdef Draw last_draw
