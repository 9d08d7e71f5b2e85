# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A token bucket in shared memory, for any number of processes, without a lock.

What it promises. From any moment on, within t seconds, it admits no more than `burst + one_time_burst +
rate * t` tokens, and one debt: a request larger than `burst` is admitted when the bucket is full, and
what it took too much is missing until it is refilled. If there is always somebody who wants tokens, it
admits no less than that either, but for what follows from the unit (below).

The virtual schedule. Nothing is refilled by anybody. Let `fill(t)` be what has been refilled in t
nanoseconds since the bucket was configured, full, and `spent` a position on the same scale: the bucket
holds `fill + burst - spent` tokens, and never more than `burst`. With `need = min(amount, burst)`:

    admitted  if  spent + need <= fill + burst;  then  spent := max(spent, fill) + amount
    otherwise the time to come back is the first t with  fill(t) >= spent + need - burst

`max` is the rim of the bucket: what was refilled above it is lost. A debt is `spent > fill + burst`. So
one number is the whole state (as in the generic cell rate algorithm, ITU-T I.371, there in units of
time, where 4 KiB at 10 GB/s are 409.6 ns and the fraction must go somewhere).

The one-time burst comes before it on the same scale: a position below `one_time` counts one-time tokens
spent, and the bucket proper is then full, whatever the time. A position from `one_time` on is
`one_time + spent`. The request that crosses pays the rest from the full bucket.

Waiting in line. `acquire` draws or refuses; whoever is refused comes back, and may find that another was
faster. Many small requests can so keep a large one out for good. `reserve` draws in any case and says when
to begin: `spent` then runs ahead of `fill`, and the order of reservations is the order of beginning, for all
processes, at no more cost. It keeps the same bound, as no request begins before `acquire` would have let it.
A process that dies between reserving and beginning has spent what it reserved.

No drift. `fill(t) = floor(rate * t / 10^9)` is computed from the beginning each time, with t split into
seconds and nanoseconds: `rate * s + rate * ns / 10^9`. It is exact, so rounding has nothing to carry.

Units. Rate, burst and amounts are in units of 2^k tokens, k chosen so that `rate_units` has 32 bits, but
not below k = -20 (bucket_settings.py):

- up to 2^32 tokens a second (4.3 GB/s) a unit is a token or an exact fraction of one (fractions are for
  rates such as 100 in 3 s); up to 2^41 it is at most 512 bytes, and whole sectors are exact;
- above, an amount is rounded up to a unit, that is, by less than rate/2^31: to be 0.1 % below its rate the
  bucket has to be drawn from two million times a second with amounts that are not multiples of a unit;
- the rate itself is rounded down, by less than 1/rate_units: 2^-31 for high rates, 2^-20 at one a second,
  0.1 % at one in a thousand seconds, below which settings are refused.

No position in a 64-bit word does much better: the word stands still while time goes by, so to be told from
a bucket left full long ago, its states need `rate * (longest idle time)` values.

No overflow. rate_units <= 2^32, t is cut at 2^30 s (34 years since configured, after which nothing is
refilled), so fill <= 2^62; burst, one_time, amount <= 2^60. Admission bounds
`spent <= fill + burst - need + amount <= 2^62 + 2^61`, with `fill` when the request begins, and a reservation
that would begin after those 34 years is refused. So `one_time + spent < 2^63`: 63 bits hold a position. In
`rate * ns` and in the remainder of the waiting time, `2^32 * 10^9 < 2^62`.

Concurrency. The word is the only thing an acquisition changes, with one compare-and-swap: before it the
process has changed nothing, after it the acquisition is made. So there is nothing to repair when it dies,
wherever that is. If the swap fails, another's succeeded: the bucket is lock-free.

Bit 0 of the word names one of two sets of terms. Who configures (one at a time) fills in the other set and
then changes the word; dying before that leaves the bucket as it was. Who draws reads the word, then the
terms, and swaps only if the word is still the same. A word is never used twice: each configuring moves the
origin of positions by WEYL_STEP, which after n times is at least 2^63/3n away from where it was, further
than a bucket gets in years. So the same word means that no new terms have come, hence that the set was not
being written to while it was read. Stores to terms are releases, loads are acquires: who sees one of a new
set has the word from before it in view too. A refusal, which swaps nothing, looks at the word once more.
"""

from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memset

from ringblk.shm.sync.atomic cimport compare_swap_64, full_fence, load_acquire_64, store_release_64
from ringblk.shm.sync.buffer_address cimport place_in
from ringblk.shm.rates.bucket_settings import BucketSettings

cdef enum:
    NS_PER_SECOND = 1000000000
    MAX_SECONDS = 1 << 30

cdef uint64_t POSITION_MASK = 0x7FFFFFFFFFFFFFFF
cdef uint64_t WEYL_STEP = 0x4F1BBCDCBFA53E0B   # 2^63 divided by the golden ratio, odd
cdef uint64_t NEVER_NS = 0x7FFFFFFFFFFFFFFF

STATE_BYTES = BUCKET_STATE_BYTES
ALIGN_BYTES = BUCKET_ALIGN_BYTES
NEVER = NEVER_NS


cdef inline uint64_t refilled(uint64_t rate_units, uint64_t elapsed_ns) noexcept nogil:
    """floor(rate_units * elapsed_ns / 10^9), exactly, up to MAX_SECONDS."""
    cdef uint64_t seconds = elapsed_ns // NS_PER_SECOND
    if seconds >= MAX_SECONDS:
        return rate_units * MAX_SECONDS
    return rate_units * seconds + rate_units * (elapsed_ns - seconds * NS_PER_SECOND) // NS_PER_SECOND


cdef inline uint64_t refill_ns(uint64_t rate_units, uint64_t units) noexcept nogil:
    """The first moment, in nanoseconds since the start, with refilled() >= units; or NEVER_NS."""
    if units > rate_units * MAX_SECONDS:
        return NEVER_NS
    cdef uint64_t seconds = units // rate_units
    cdef uint64_t rest = (units - seconds * rate_units) * NS_PER_SECOND
    return seconds * NS_PER_SECOND + (rest + rate_units - 1) // rate_units


cdef inline uint64_t to_units(const TermsWords *terms, uint64_t amount) noexcept nogil:
    cdef uint64_t shift_down = load_acquire_64(&terms.shift_down)
    cdef uint64_t most = load_acquire_64(&terms.max_amount)
    if amount > most:
        amount = most
    return ((amount << load_acquire_64(&terms.shift_up)) + ((<uint64_t>1 << shift_down) - 1)) >> shift_down


cdef inline void work_out(BucketState *state, uint64_t amount, uint64_t now_ns, Draw *draw) noexcept nogil:
    """Read the bucket once and work out what an acquisition makes of it. Changes nothing."""
    cdef uint64_t word = load_acquire_64(&state.word)
    cdef const TermsWords *terms = &state.terms[word & 1]
    cdef uint64_t rate = load_acquire_64(&terms.rate_units)
    draw.word_before = draw.word_after = word
    draw.units = draw.wait_ns = 0
    if rate == 0 or amount == 0:
        return
    cdef uint64_t burst = load_acquire_64(&terms.burst_units)
    cdef uint64_t one_time = load_acquire_64(&terms.one_time_units)
    cdef uint64_t start_ns = load_acquire_64(&terms.start_ns)
    cdef uint64_t units = to_units(terms, amount)
    draw.units = units
    draw.origin = load_acquire_64(&terms.origin)
    # A reading of the clock from just before the bucket was configured counts as the start.
    cdef uint64_t fill = refilled(rate, now_ns - start_ns if now_ns > start_ns else 0)
    cdef uint64_t position = ((word >> 1) - draw.origin) & POSITION_MASK
    cdef uint64_t spent, need, due_ns
    if position < one_time:
        if units <= one_time - position:
            position += units
        else:
            position = fill + position + units   # one_time + fill + (units - (one_time - position))
    else:
        spent = position - one_time
        need = units if units < burst else burst
        if spent + need > fill + burst:
            due_ns = refill_ns(rate, spent + need - burst)
            draw.wait_ns = due_ns if due_ns == NEVER_NS else start_ns + due_ns - now_ns
            if due_ns == NEVER_NS:
                return
        position = one_time + (spent if spent > fill else fill) + units
    draw.word_after = ((draw.origin + position) << 1) | (word & 1)


cdef uint64_t bucket_wait(BucketState *state, uint64_t amount, uint64_t now_ns) noexcept nogil:
    """How long until `amount` tokens could be drawn: 0 for now. Draws nothing."""
    cdef Draw draw
    while True:
        work_out(state, amount, now_ns, &draw)
        if load_acquire_64(&state.word) == draw.word_before:
            return draw.wait_ns


cdef uint64_t bucket_acquire(BucketState *state, uint64_t amount, uint64_t now_ns, Draw *draw) noexcept nogil:
    """Draw `amount` tokens and return 0, or draw nothing and return how long to wait in nanoseconds.

    When the wait is over the tokens are there, unless another has drawn meanwhile. After 0, `draw` is
    what bucket_refund takes.
    """
    cdef uint64_t expected
    while True:
        work_out(state, amount, now_ns, draw)
        expected = draw.word_before
        if draw.wait_ns != 0:
            if load_acquire_64(&state.word) == expected:
                return draw.wait_ns
        elif draw.units == 0 or compare_swap_64(&state.word, &expected, draw.word_after):
            return 0


cdef uint64_t bucket_reserve(BucketState *state, uint64_t amount, uint64_t now_ns, Draw *draw) noexcept nogil:
    """Draw `amount` tokens, ahead of time if need be, and return how long to wait before using them.

    NEVER_NS: too far ahead, nothing is drawn.
    """
    cdef uint64_t expected
    while True:
        work_out(state, amount, now_ns, draw)
        expected = draw.word_before
        if draw.wait_ns == NEVER_NS:
            if load_acquire_64(&state.word) == expected:
                draw.units = 0
                return NEVER_NS
        elif draw.units == 0 or compare_swap_64(&state.word, &expected, draw.word_after):
            return draw.wait_ns


cdef void bucket_refund(BucketState *state, const Draw *draw) noexcept nogil:
    """Give back an acquisition, because another bucket refused. Never gives back more than was drawn.

    Exact where nobody has drawn in between, and where the draw took tokens of one kind. A draw that took
    the last one-time tokens gives them back as ordinary ones, which a full bucket has no room for. What
    was drawn under terms that are gone is not given back: the new terms began with a full bucket.
    """
    cdef uint64_t word = draw.word_before
    cdef uint64_t expected = draw.word_after
    cdef uint64_t position, one_time, lowest
    cdef const TermsWords *terms
    if draw.units == 0 or compare_swap_64(&state.word, &expected, word):
        return
    while True:
        word = expected
        terms = &state.terms[word & 1]
        if load_acquire_64(&terms.origin) != draw.origin:
            return
        one_time = load_acquire_64(&terms.one_time_units)
        position = ((word >> 1) - draw.origin) & POSITION_MASK
        lowest = one_time if position >= one_time else 0
        position = position - draw.units if position - lowest > draw.units else lowest
        if compare_swap_64(&state.word, &expected, ((draw.origin + position) << 1) | (word & 1)):
            return


cdef inline uint64_t to_tokens(uint64_t units, uint64_t up, uint64_t down, uint64_t most) noexcept nogil:
    return most if units >> up > most >> down else units >> up << down   # one of the two is zero


cdef void bucket_view(const BucketState *state, uint64_t most, BucketView *view) noexcept nogil:
    """The terms in use, of one set, in tokens up to `most` (at most 2^60)."""
    cdef uint64_t word, up, down
    cdef const TermsWords *terms
    while True:
        word = load_acquire_64(&state.word)
        terms = &state.terms[word & 1]
        up, down = load_acquire_64(&terms.shift_up), load_acquire_64(&terms.shift_down)
        view.origin = load_acquire_64(&terms.origin)
        view.burst = to_tokens(load_acquire_64(&terms.burst_units), up, down, most)
        view.rate = to_tokens(load_acquire_64(&terms.rate_units), up, down, most)
        if load_acquire_64(&state.word) == word:
            return


cdef void bucket_configure(BucketState *state, const TermsWords *terms) noexcept nogil:
    """Begin new terms with a full bucket; `terms.origin` is not looked at. One caller at a time."""
    cdef uint64_t word = load_acquire_64(&state.word)
    cdef uint64_t other = (word & 1) ^ 1
    cdef TermsWords *spare = &state.terms[other]
    cdef uint64_t origin = ((word >> 1) + WEYL_STEP) & POSITION_MASK
    full_fence()   # whoever sees a store below has seen the word that took the set out of use
    store_release_64(&spare.rate_units, terms.rate_units)
    store_release_64(&spare.burst_units, terms.burst_units)
    store_release_64(&spare.one_time_units, terms.one_time_units)
    store_release_64(&spare.start_ns, terms.start_ns)
    store_release_64(&spare.origin, origin)
    store_release_64(&spare.shift_up, terms.shift_up)
    store_release_64(&spare.shift_down, terms.shift_down)
    store_release_64(&spare.max_amount, terms.max_amount)
    store_release_64(&state.word, (origin << 1) | other)


cdef bint bucket_has_terms(const BucketState *state, const TermsWords *terms) noexcept nogil:
    """Whether the terms in use are these, whenever they began. Nobody configures meanwhile."""
    cdef const TermsWords *used = &state.terms[load_acquire_64(&state.word) & 1]
    return (used.rate_units == terms.rate_units and used.burst_units == terms.burst_units
            and used.one_time_units == terms.one_time_units and used.shift_up == terms.shift_up
            and used.shift_down == terms.shift_down and used.max_amount == terms.max_amount)


cdef int read_terms(object settings, uint64_t now_ns, TermsWords *terms) except -1:
    """Fill in `terms` from a BucketSettings (None: no limit). Raises BucketSettingsError."""
    worked_out = (settings or BucketSettings(tokens=0)).terms()
    memset(terms, 0, sizeof(TermsWords))
    terms.rate_units = worked_out.rate_units
    terms.burst_units = worked_out.burst_units
    terms.one_time_units = worked_out.one_time_units
    terms.shift_up = worked_out.shift_up
    terms.shift_down = worked_out.shift_down
    terms.max_amount = worked_out.max_amount
    terms.start_ns = now_ns
    return 0


cdef class TokenBucket:
    """A token bucket that lies in a writable buffer, such as a shared mapping."""

    def __cinit__(self, buffer, size_t offset_bytes=0):
        cdef uint8_t *place = place_in(buffer, offset_bytes, sizeof(BucketState), BUCKET_ALIGN_BYTES, "a token bucket")
        self.buffer = memoryview(buffer)   # an export: the mapping cannot be closed under us
        self.state = <BucketState *>place

    def configure(self, settings, uint64_t now_ns):
        """Begin with new settings and a full bucket. One process at a time; others may be drawing."""
        cdef TermsWords terms
        read_terms(settings, now_ns, &terms)
        bucket_configure(self.state, &terms)

    def acquire(self, uint64_t amount, uint64_t now_ns):
        """Draw `amount` tokens and return 0, or return the nanoseconds until they are there."""
        cdef Draw draw
        cdef uint64_t wait_ns = bucket_acquire(self.state, amount, now_ns, &draw)
        if wait_ns == 0:
            self.last_draw = draw
        return wait_ns

    def acquire_many(self, uint64_t amount, uint64_t most, uint64_t now_ns):
        """Acquire up to `most` times in a compiled loop, until refused; return how often it succeeded.

        For tests and measurements, where the interpreter would keep processes from meeting.
        """
        cdef Draw draw
        cdef uint64_t count = 0
        with nogil:
            while count < most and bucket_acquire(self.state, amount, now_ns, &draw) == 0:
                count += 1
        return count

    def reserve(self, uint64_t amount, uint64_t now_ns):
        """Draw `amount` tokens ahead of time and return the nanoseconds until they may be used."""
        return bucket_reserve(self.state, amount, now_ns, &self.last_draw)

    def wait_ns(self, uint64_t amount, uint64_t now_ns):
        """Return how long until `amount` tokens could be drawn, and draw nothing."""
        return bucket_wait(self.state, amount, now_ns)

    def refund(self):
        """Give back what this object's last acquire() or reserve() drew. A second time does nothing."""
        bucket_refund(self.state, &self.last_draw)
        self.last_draw.units = 0

    @property
    def is_limited(self):
        """Whether there is a limit at all."""
        return bucket_is_limited(self.state)


assert sizeof(BucketState) == BUCKET_STATE_BYTES
