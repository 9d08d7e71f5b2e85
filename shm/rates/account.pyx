# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A drive's account with the limit that it draws from: its own, or one that it shares with a group.

Tokens come in pieces. For each bucket a drive has at most one piece reserved (bucket_reserve), and reserves
the next one when the last is there. What is there is the drive's *credit*. A request begins when the credit
of each of its buckets is at least `need = min(cost, burst)`, and is then charged its whole cost: what the
credit does not cover is the drive's *debt*, a credit below zero, paid by the drive's later pieces.

Fair by drive. A bucket keeps the order of its reservations (token_bucket.pyx), a drive has one there, and a
piece of a group's bucket is a *quantum* for everybody, two milliseconds' worth and at least one token. So
between two pieces of a drive that always wants tokens, each other drive gets at most one: while two drives
both want tokens, what they draw differs by at most one quantum (deficit round robin, Shreedhar and Varghese,
1995, with the reservations as the round). It does not matter how much a drive has queued, in how many queues,
or how large its requests are, nor what it owes: a debt is paid in quanta that others draw between. A drive of
fewer requests than its share has one quantum of credit at most and does not wait for each request: what others
do costs it one round, the other drives' quanta, for each quantum of its own. Who wants nothing reserves
nothing, so the others get all.

The envelope. A drive draws no more than the bucket admits: all drives together, in t seconds, burst + one-time
burst + rate * t (the pieces that are reserved begin when `acquire` would have let them). What a drive begins is
what it drew, and its credit at the beginning less that at the end. So a group begins no more than

    burst + one_time_burst + rate * t + the sum over drives of (credit at the beginning + debt at the end).

A credit is below `need + quantum` while something waits, and at most a quantum when nothing does (`trim`): 0 in
a bucket of the drive's own, where a piece is what is missing and no more (up to the bucket's size, or two
milliseconds' worth if that is more). A debt is at most `cost - need` of the one request that made it, if none
were let go before their time; the throttle bounds what may be (engine/dispatcher/throttle.pyx). Nothing is less than the
bucket's rate: while somebody wants tokens, a piece is reserved, so the bucket never overflows.

Deaths. A piece is reserved with one compare-and-swap. The credit lies in the drive's own segment and has one
writer, the dispatcher, so its successor goes on with it, debt included. Who dies between a reservation and the
credit has lost one piece; between the charge and the beginning, the request is charged once more. A drive that
is gone takes its credit or debt along and leaves the bucket as it is for the others.

New terms (another origin) begin with a full bucket; credit, debt and piece of the old ones are forgotten.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from ringblk.shm.rates.limit cimport BUCKET_COUNT, RateLimit
from ringblk.shm.rates.token_bucket cimport BucketView, Draw, bucket_origin, bucket_reserve, bucket_view
from ringblk.shm.sync.atomic cimport load_acquire_64

from ringblk.shm.rates.limit import BUCKET_NAMES

cdef enum:
    QUANTA_A_SECOND = 500

AHEAD_S = 16
"""A queue's requests are popped before their tokens are there for so many seconds' worth (engine/dispatcher/throttle.pyx)."""

cdef uint64_t NEVER = <uint64_t>-1
cdef int64_t AHEAD = AHEAD_S


cdef class RateAccount:
    """Draws from `limit`, which is a group's if `is_shared`; keeps the credit in `own_limit`, the drive's."""

    def __cinit__(self, RateLimit limit, RateLimit own_limit, bint is_shared):
        self.limit = limit
        self.own_limit = own_limit
        self.buckets = limit.state
        self.own = own_limit.state
        self.is_shared = is_shared
        memset(self.drawings, 0, sizeof(self.drawings))

    cdef uint64_t refresh(self) noexcept nogil:
        """The buckets that have a limit, a bit each, with their terms as they are now."""
        cdef uint64_t mask = load_acquire_64(&self.buckets.limited_mask)
        cdef uint32_t index
        for index in range(BUCKET_COUNT):
            if (mask >> index) & 1 and bucket_origin(&self.buckets.buckets[index]) != self.drawings[index].origin:
                self._learn(index)
        return mask

    cdef void _learn(self, uint32_t index) noexcept nogil:
        """Take in new terms; a predecessor's credit under the same terms goes on."""
        cdef Drawing *drawing = &self.drawings[index]
        cdef BucketView view
        bucket_view(&self.buckets.buckets[index], AMOUNT_LIMIT, &view)
        if view.origin == drawing.origin:
            return
        drawing.origin = view.origin
        drawing.burst = <int64_t>view.burst
        drawing.quantum = max(<int64_t>view.rate // QUANTA_A_SECOND, <int64_t>1)
        drawing.ahead = max(<int64_t>view.rate * AHEAD, <int64_t>1)
        drawing.piece = 0
        if self.own.buckets[index].credit_origin != view.origin:
            self.own.buckets[index].credit = 0
            self.own.debt_mask &= ~((<uint64_t>1) << index)
            self.own.buckets[index].credit_origin = view.origin   # last: a successor believes the credit by it

    cdef void settle(self, uint64_t now_ns) noexcept nogil:
        """Credit the pieces that are there now."""
        cdef uint32_t index
        cdef Drawing *drawing
        for index in range(BUCKET_COUNT):
            drawing = &self.drawings[index]
            if drawing.piece != 0 and drawing.ready_ns <= now_ns:
                self.own.buckets[index].credit += drawing.piece
                drawing.piece = 0

    cdef bint draw(self, uint32_t index, int64_t missing, uint64_t now_ns) noexcept nogil:
        """Reserve a piece of the `missing` tokens where none is; True when it could be credited at once."""
        cdef Drawing *drawing = &self.drawings[index]
        cdef Draw reservation
        cdef uint64_t wait_ns
        cdef int64_t piece
        if drawing.piece != 0:
            return False
        piece = drawing.quantum
        if not self.is_shared:
            piece = min(missing, max(drawing.burst, piece))
        wait_ns = bucket_reserve(&self.buckets.buckets[index], <uint64_t>piece, now_ns, &reservation)
        if wait_ns == 0:
            self.own.buckets[index].credit += piece
            return True
        if wait_ns < NEVER // 2:   # or too far ahead, and nothing is reserved
            drawing.piece = piece
            drawing.ready_ns = now_ns + wait_ns
        return False

    cdef void charge(self, uint64_t mask, uint64_t size_bytes) noexcept nogil:
        """Take a request's cost from the credit of its buckets."""
        cdef uint32_t index
        for index in range(BUCKET_COUNT):
            if (mask >> index) & 1:
                self.own.buckets[index].credit -= self.cost(index, size_bytes)

    cdef void trim(self) noexcept nogil:
        """Nothing waits: keep no more credit than a quantum of a group's bucket."""
        cdef uint32_t index
        cdef int64_t most
        for index in range(BUCKET_COUNT):
            most = self.drawings[index].quantum if self.is_shared else 0
            if self.own.buckets[index].credit > most:
                self.own.buckets[index].credit = most

    cdef bint pay_debt(self, uint64_t now_ns) noexcept nogil:
        """Draw for what `debt_mask` names; True while some of it is owed."""
        cdef uint64_t limited = self.refresh()
        cdef uint32_t index
        self.settle(now_ns)
        for index in range(BUCKET_COUNT):
            if not (self.own.debt_mask >> index) & 1:
                continue
            if (limited >> index) & 1:
                while self.own.buckets[index].credit < 0 and self.draw(index, -self.own.buckets[index].credit, now_ns):
                    pass
                if self.own.buckets[index].credit < 0:
                    continue
            self.own.debt_mask &= ~((<uint64_t>1) << index)
        return self.own.debt_mask != 0

    cdef uint64_t next_ns(self) noexcept nogil:
        """When the next reserved piece is there; the largest value if none is reserved."""
        cdef uint32_t index
        cdef uint64_t first_ns = NEVER
        for index in range(BUCKET_COUNT):
            if self.drawings[index].piece != 0 and self.drawings[index].ready_ns < first_ns:
                first_ns = self.drawings[index].ready_ns
        return first_ns

    def credit(self, name):
        """The tokens of the bucket `name` (one of BUCKET_NAMES) that the drive has; below zero: it owes them."""
        self.refresh()
        return self.own.buckets[<uint32_t>BUCKET_NAMES.index(name)].credit
