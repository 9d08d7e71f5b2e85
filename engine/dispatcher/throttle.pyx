# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests that wait for tokens, between being popped and being handed over.

A waiting request stands in a *lane*: one for each queue and kind (reads, writes, others), as a kind draws from the
same buckets. A lane keeps its order. Its first request, the *head*, begins when the drive's account
(shm/rates/account.pyx) has credit for it in each bucket that it draws from; it waits for no other bucket.

Who is next. Heads claim credit bucket by bucket, the buckets of one kind first, then those of all kinds, bytes before
operations. At each bucket they stand in the order of virtual start times; the first one for which the credit does not
suffice, and all behind it, do not begin now, and claim nothing of later buckets. So who waits for a slow bucket holds
nothing that another kind waits for (a write that has no write tokens takes no part in the line for the total), and who
stands in line for a bucket of all kinds is not overtaken there by the other kind.

Fair by queue. A queue's virtual start time at a bucket is max(its last finish, the start time of what was begun last),
its finish the start plus the cost, in tokens (start-time fair queueing, Goyal, Vin and Cheng, 1996). Two queues that
both want a bucket's tokens get the same of it but for one request of each. Within a queue the older head is first.

What goes before its time. Who stops a queue, pauses the drive, or takes memory away does not wait for tokens. Waiting
requests at the end of what was popped go back to the driver's ring (`take_back`), as if they had never been popped.
What was popped before something that has begun since is begun now, and charged (`take_first`, `take_from`): a debt of
the drive, and until that is paid nothing is popped (`is_in_debt`): a driver that stops its queues again and again
gains nothing. So that it is bounded, a drive pops nothing while what waits is AHEAD_S seconds' worth of a bucket
(`is_full`; a queue may have its share of that in any case): such a debt is at most twice that, and the last request of
each queue.

Nothing here is shared but the credit and the buckets that owe: a waiting request is a PREPARED slot, and the next
dispatcher throttles it anew.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.rates.account cimport RateAccount
from ringblk.shm.rates.limit cimport (
    BUCKET_COUNT, BYTES_READ, BYTES_TOTAL, BYTES_WRITE, CHARGE_READ, CHARGE_WRITE, OPS_READ, OPS_TOTAL, OPS_WRITE,
    RateLimit, rate_limit_applies,
)
from ringblk.shm.layout.region_set cimport RegionSet
from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.state.segment cimport QUEUE_LIMIT, StateSegment

from ringblk.shm.rates.account import RateAccount as _RateAccount

cdef enum:
    # A change of a group's limit by another engine is not announced: look that often while waiting.
    SHARED_LOOK_NS = 20000000

cdef uint64_t NEVER = <uint64_t>-1
cdef uint32_t[6] CLAIM_ORDER = [BYTES_READ, BYTES_WRITE, OPS_READ, OPS_WRITE, BYTES_TOTAL, OPS_TOTAL]


cdef inline uint32_t lane_of(uint64_t charge_kind) noexcept nogil:
    return 0 if charge_kind == CHARGE_READ else 1 if charge_kind == CHARGE_WRITE else 2


cdef class Throttle:
    """The drive's limit, or that of the group it belongs to (`is_shared`)."""

    def __cinit__(self, StateSegment state, RateLimit limit, bint is_shared):
        self.state = state
        self.account = _RateAccount(limit, state.rate_limit, is_shared)
        memset(self.queues, 0, sizeof(self.queues))
        memset(self.now, 0, sizeof(self.now))
        memset(self.waiting, 0, sizeof(self.waiting))
        self.next_slot = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        self.previous_slot = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        self.positions = <uint64_t *>calloc(state.slot_count, sizeof(uint64_t))
        if self.next_slot == NULL or self.previous_slot == NULL or self.positions == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.next_slot)
        free(self.previous_slot)
        free(self.positions)

    cdef bint admit(self, uint32_t slot_index, uint64_t position, uint64_t now_ns) noexcept nogil:
        """Whether the request may begin now; otherwise it waits here.

        `position`: which of its queue's pops it was, for `take_back`; NO_POSITION: it cannot go back to its ring.
        """
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef ThrottledQueue *queue = &self.queues[slot.queue_index]
        cdef uint32_t index, lane_index
        cdef Lane *lane
        cdef Head *head
        if slot.charge_kind == 0 or not rate_limit_applies(self.account.buckets, slot.charge_kind):
            return True
        if self.waiting_queues == 0:
            self.account.refresh()
            self.account.settle(now_ns)
            self.account.trim()
        lane_index = lane_of(slot.charge_kind)
        lane = &queue.lanes[lane_index]
        if lane.count == 0:
            lane.first = slot_index
        else:
            self.next_slot[lane.last] = slot_index
            self.previous_slot[slot_index] = lane.last
        lane.last = slot_index
        lane.count += 1
        self.positions[slot_index] = position
        self.waiting_queues |= (<uint64_t>1) << slot.queue_index
        for index in range(BUCKET_COUNT):
            if (slot.charge_kind >> index) & 1:
                queue.waiting[index] += self.account.cost(index, slot.length_bytes)
                self.waiting[index] += self.account.cost(index, slot.length_bytes)
        if lane.count > 1:
            return False
        head = self._choose(now_ns)
        if head == NULL or head.slot_index != slot_index:
            return False
        self._begin(slot_index, head.mask)
        return True

    cdef int take_ready(self, uint64_t now_ns) noexcept nogil:
        """A slot that may begin now, or -1."""
        cdef Head *head
        if self.waiting_queues == 0:
            return -1
        head = self._choose(now_ns)
        if head == NULL:
            return -1
        self.state.slots[head.slot_index].throttled_ns = now_ns - self.state.slots[head.slot_index].popped_ns
        self._begin(head.slot_index, head.mask)
        return <int>head.slot_index

    cdef Head *_choose(self, uint64_t now_ns) noexcept nogil:
        """The head that begins next, or NULL when none may: what is missing is then reserved."""
        cdef uint64_t limited = self.account.refresh()
        cdef uint32_t index, place
        cdef int64_t missing
        cdef bint has_drawn = True
        while has_drawn:
            self.account.settle(now_ns)
            self._list_heads(limited)
            has_drawn = False
            for place in range(BUCKET_COUNT):
                index = CLAIM_ORDER[place]
                missing = self._claim(index) if (limited >> index) & 1 else 0
                if missing > 0 and self.account.draw(index, missing, now_ns):
                    has_drawn = True
            for place in range(self.head_count):
                if not self.heads[place].is_out:
                    return &self.heads[place]
        return NULL

    cdef void _list_heads(self, uint64_t limited) noexcept nogil:
        cdef uint64_t queues = self.waiting_queues
        cdef uint32_t queue_index = 0, lane_index
        cdef RequestSlot *slot
        cdef Lane *lane
        cdef Head *head
        self.head_count = 0
        while queues:
            if queues & 1:
                for lane_index in range(<uint32_t>LANE_COUNT):
                    lane = &self.queues[queue_index].lanes[lane_index]
                    if lane.count:
                        slot = &self.state.slots[lane.first]
                        head = &self.heads[self.head_count]
                        head.slot_index, head.queue_index, head.lane_index = lane.first, queue_index, lane_index
                        head.is_out = False
                        head.mask = slot.charge_kind & limited
                        head.counter, head.length_bytes = slot.counter, slot.length_bytes
                        self.head_count += 1
            queues >>= 1
            queue_index += 1

    cdef int64_t _claim(self, uint32_t index) noexcept nogil:
        """Let the heads claim what there is of a bucket; returns what the first that is left out misses, or 0."""
        cdef int64_t cost, need, left = self.account.own.buckets[index].credit
        cdef uint64_t start, first_start, claimed_bit = (<uint64_t>1) << (index + BUCKET_COUNT)
        cdef uint32_t place
        cdef Head *head
        cdef Head *first
        while True:
            first = NULL
            first_start = 0
            for place in range(self.head_count):
                head = &self.heads[place]
                if head.is_out or not (head.mask >> index) & 1 or head.mask & claimed_bit:
                    continue
                start = max(self.queues[head.queue_index].finish[index], self.now[index])
                if first == NULL or start < first_start or (start == first_start and head.counter < first.counter):
                    first, first_start = head, start
            if first == NULL:
                return 0
            cost = self.account.cost(index, first.length_bytes)
            need = self.account.need(index, cost)
            if left < need:
                break
            left -= cost
            first.mask |= claimed_bit
        for place in range(self.head_count):
            head = &self.heads[place]
            if (head.mask >> index) & 1 and not head.mask & claimed_bit:
                head.is_out = True
        return need - left

    cdef void _begin(self, uint32_t slot_index, uint64_t mask) noexcept nogil:
        """Take a lane's request out and charge it."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef ThrottledQueue *queue = &self.queues[slot.queue_index]
        cdef uint32_t index
        for index in range(BUCKET_COUNT):
            if (mask >> index) & 1:
                self.now[index] = max(queue.finish[index], self.now[index])
                queue.finish[index] = self.now[index] + <uint64_t>self.account.cost(index, slot.length_bytes)
        self.account.charge(mask, slot.length_bytes)
        self._remove(slot_index, slot.queue_index, lane_of(slot.charge_kind))

    cdef void _remove(self, uint32_t slot_index, uint32_t queue_index, uint32_t lane_index) noexcept nogil:
        """Take the first or the last of a lane out."""
        cdef ThrottledQueue *queue = &self.queues[queue_index]
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Lane *lane = &queue.lanes[lane_index]
        cdef uint32_t index
        if slot_index == lane.first:
            lane.first = self.next_slot[slot_index]
        else:
            lane.last = self.previous_slot[slot_index]
        lane.count -= 1
        for index in range(BUCKET_COUNT):
            if (slot.charge_kind >> index) & 1:
                queue.waiting[index] -= self.account.cost(index, slot.length_bytes)
                self.waiting[index] -= self.account.cost(index, slot.length_bytes)
        if queue.lanes[0].count + queue.lanes[1].count + queue.lanes[2].count == 0:
            self.waiting_queues &= ~((<uint64_t>1) << queue_index)

    cdef uint32_t count_up_to(self, uint32_t queue_index, uint32_t lane_index, const RegionSet *regions) noexcept nogil:
        """How many of a lane's requests there are up to the last that lies in one of these regions."""
        cdef Lane *lane = &self.queues[queue_index].lanes[lane_index]
        cdef uint32_t place, count = 0, slot_index = lane.first
        for place in range(lane.count):
            if self.state.lies_in(slot_index, regions):
                count = place + 1
            slot_index = self.next_slot[slot_index]
        return count

    cdef uint32_t take_from(self, uint32_t queue_index, uint32_t lane_index, uint64_t now_ns) noexcept nogil:
        """A lane's first slot (there must be one), before its time: a debt."""
        cdef uint32_t index, slot_index = self.queues[queue_index].lanes[lane_index].first
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef uint64_t mask = slot.charge_kind & self.account.refresh()
        slot.throttled_ns = now_ns - slot.popped_ns
        self._begin(slot_index, mask)
        for index in range(BUCKET_COUNT):
            if (mask >> index) & 1 and self.account.own.buckets[index].credit < 0:
                self.account.own.debt_mask |= (<uint64_t>1) << index
        return slot_index

    cdef int take_first(self, uint32_t queue_index, uint64_t now_ns) noexcept nogil:
        """A queue's oldest waiting slot, before its time, or -1."""
        cdef Lane *lane
        cdef uint32_t lane_index
        cdef int best = -1
        for lane_index in range(<uint32_t>LANE_COUNT):
            lane = &self.queues[queue_index].lanes[lane_index]
            if lane.count and (best < 0 or self.state.slots[lane.first].counter
                               < self.state.slots[self.queues[queue_index].lanes[best].first].counter):
                best = <int>lane_index
        return -1 if best < 0 else <int>self.take_from(queue_index, <uint32_t>best, now_ns)

    cdef int drop_first(self, uint32_t queue_index) noexcept nogil:
        """A queue's waiting slot that nobody is charged for: it will not be carried out here. Or -1."""
        cdef uint32_t lane_index, slot_index
        for lane_index in range(<uint32_t>LANE_COUNT):
            if self.queues[queue_index].lanes[lane_index].count:
                slot_index = self.queues[queue_index].lanes[lane_index].first
                self._remove(slot_index, queue_index, lane_index)
                return <int>slot_index
        return -1

    cdef int take_back(self, uint32_t queue_index, uint64_t position) noexcept nogil:
        """The waiting slot that was this one of its queue's pops, which is the last that is left, or -1."""
        cdef Lane *lane
        cdef uint32_t lane_index, slot_index
        for lane_index in range(<uint32_t>LANE_COUNT):
            lane = &self.queues[queue_index].lanes[lane_index]
            slot_index = lane.last
            if lane.count and self.positions[slot_index] == position:
                self._remove(slot_index, queue_index, lane_index)
                return <int>slot_index
        return -1

    cdef bint _is_enough(self, uint32_t queue_index, uint32_t queue_count) noexcept nogil:
        cdef uint64_t limited
        cdef uint32_t index
        cdef int64_t ahead
        limited = self.account.refresh()
        for index in range(BUCKET_COUNT):
            ahead = self.account.drawings[index].ahead
            if (limited >> index) & 1 and self.waiting[index] >= ahead \
                    and self.queues[queue_index].waiting[index] * queue_count >= ahead:
                return True
        return False

    cdef uint64_t wait_ns(self, uint64_t now_ns) noexcept nogil:
        """How long until something may begin or be popped; the largest value if nothing waits and nothing is owed."""
        cdef uint64_t next_ns
        if not self.has_waiting():
            return NEVER
        # What `is_in_debt` has credited since the last look may be another's head's, with no piece reserved any more.
        if self.waiting_queues and self._choose(now_ns) != NULL:
            return 0
        next_ns = self.account.next_ns()
        if next_ns <= now_ns:
            return 0
        if self.account.is_shared and next_ns - now_ns > SHARED_LOOK_NS:
            return SHARED_LOOK_NS
        return next_ns if next_ns == NEVER else next_ns - now_ns

    # The same for tests, on slots and on a clock of their own

    def offer(self, uint32_t slot_index, uint32_t queue_index, uint16_t charge_kind, uint64_t length_bytes,
              uint64_t now_ns, uint64_t position=NO_POSITION):
        """Make up a request in a slot and admit it: whether it may begin now. Slots count up with the requests."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        slot.queue_index, slot.charge_kind = <uint16_t>queue_index, charge_kind
        slot.counter, slot.length_bytes, slot.popped_ns, slot.throttled_ns = self.offered, length_bytes, now_ns, 0
        self.offered += 1
        return self.admit(slot_index, position, now_ns)

    def ready(self, uint64_t now_ns):
        """Every slot that may begin now, in order."""
        slots = []
        while (slot_index := self.take_ready(now_ns)) >= 0:
            slots.append(slot_index)
        return slots

    def let_go(self, uint32_t queue_index, uint64_t now_ns):
        """Every slot that waits in a queue, as at a stop."""
        slots = []
        while (slot_index := self.take_first(queue_index, now_ns)) >= 0:
            slots.append(slot_index)
        return slots

    def unpop(self, uint32_t queue_index, uint64_t position):
        """`take_back`."""
        return self.take_back(queue_index, position)

    def owes(self, uint64_t now_ns):
        """Whether nothing may be popped yet."""
        return self.account.own.debt_mask != 0 and self.account.pay_debt(now_ns)

    def has_enough(self, uint32_t queue_index, uint32_t queue_count):
        """`is_full`."""
        return self.is_full(queue_index, queue_count)

    def wait(self, uint64_t now_ns):
        """`wait_ns`."""
        return self.wait_ns(now_ns)

    def credit(self, name):
        """The drive's credit in the bucket `name`."""
        return self.account.credit(name)


assert HEAD_LIMIT == QUEUE_LIMIT * LANE_COUNT
