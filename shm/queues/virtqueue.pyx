# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The device's side of a virtqueue (virtio 1.2, 2.6), whatever the layout of its ring.

Whoever serves a queue knows a chain by its head index and nothing of the ring. A chain's life:

- `available_count` says how many are on offer, `peek` which is next;
- `read` copies it into a slot, and changes nothing;
- `take` makes it the device's: from then on it is in flight, and the in-flight record says so;
- `give_back` puts it into the batch that goes back, with the number of bytes written to it;
- `publish` shows the batch to the driver; `needs_call` says whether the driver wants to be told;
- `forget` ends what is in flight, chain by chain, and `settle` the batch.

Recovery relies on that order: a successor finds in the in-flight record and the ring what was published (`resume`).
`unpop` undoes the last `take`. `adopt` takes in what an earlier process had in flight.

A queue that says what no correct driver can say is broken (`broken`, one of `BROKEN_REASONS`): nothing more is popped
from it until it is reset. What only makes one request bad is told by `read`, for the request's outcome to say.
"""

from libc.errno cimport EPROTO
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ringblk.shm.layout.region_set cimport REGION_LIMIT
from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.state.segment cimport CHAIN_LIMIT

from ringblk.shm.layout.sizes import queue_size_fault
from ringblk.shm.queues.errors import RingError

BROKEN_REASONS = {
    BROKEN_AVAIL_COUNT: "the avail index is more than the queue size ahead",
    BROKEN_HEAD_INDEX: "a head index is out of range",
    BROKEN_HEAD_IN_FLIGHT: "a descriptor chain was offered again while in flight",
    BROKEN_NEXT_INDEX: "a descriptor's next field is out of range",
    BROKEN_LOOP: "a descriptor chain loops",
    BROKEN_INFLIGHT: "the in-flight region contradicts the ring",
    BROKEN_MEMORY: "memory that the front end shares is gone",
}


cdef class Virtqueue:
    """One queue, popped and completed by one dispatcher; to be subclassed by each layout.

    A chain has at most as many descriptors as the queue (virtio 1.2, 2.7.5.3.1). Drivers do not keep to that in
    indirect tables: Linux goes by what the device offers (`seg_max` + 2, here `chain_limit`), Windows by what
    QEMU takes. So each of the three is enough.
    """

    def __init__(self, uint16_t queue_index, uint32_t queue_size, GuestMemory memory, uint32_t chain_limit):
        if fault := queue_size_fault(queue_size):
            raise RingError(f"queue {queue_index}: size {fault}")
        self.queue_index = queue_index
        self.queue_size = queue_size
        self.memory = memory
        self.chain_limit = max(queue_size, chain_limit, <uint32_t>CHAIN_LIMIT)

    def remap(self):
        """Find the ring in the region table as it is now. Raises `RingError`; it stays where it was then."""
        raise NotImplementedError

    def log_at(self, gpa):
        """Mark writes to the ring at this guest physical address in the memory's log, or nowhere (None).

        All that was written to it so far counts as written now: by a predecessor, who may have died before its mark.
        """
        self.is_logged = gpa is not None
        if gpa is not None:
            self.log_gpa = gpa
            self.log_ring()

    def resume(self, mapping, size_t offset_bytes, uint16_t base):
        """Go on where ring and in-flight record say; the heads in flight, oldest first. Before anything is popped.

        The record is on the bytes at `offset_bytes` of a shared mapping. `base` (SET_VRING_BASE) counts where the
        record is fresh: else the record knows better, as `base` is as old as the queue's first start. Raises
        `InflightError` when record and ring cannot both be right.
        """
        raise NotImplementedError

    @property
    def next_avail(self):
        """Where a later start goes on (GET_VRING_BASE): as far as chains were taken."""
        raise NotImplementedError

    @property
    def used_idx(self):
        """How many chains were given back, as it stands in guest memory."""
        raise NotImplementedError

    @property
    def inflight_count(self):
        """Chains that were taken or adopted, and not forgotten."""
        return self.count_inflight()

    cdef int mark_broken(self, uint32_t reason) noexcept nogil:
        """Pop nothing more; the first reason stays. Returns -EPROTO."""
        if self.broken == 0:
            self.broken = reason
        return -EPROTO

    cdef int available_count(self) noexcept nogil:
        """Chains offered and not taken; -EPROTO when that is more than there can be."""
        return -EPROTO

    cdef int peek(self) noexcept nogil:
        """The head index of the next chain, which there must be; -EPROTO when no correct driver offers it."""
        return -EPROTO

    cdef int read(self, uint16_t head_index, RequestSlot *slot, Range *ranges, uint32_t room) noexcept nogil:
        """Copy and resolve a chain into `ranges`: readable pieces, then writable ones, counted in the slot.

        The last writable byte is found even of a bad chain, if it is in the guest's memory.
        Returns 0, a set of ChainFlags when the request is bad (its ranges are not complete then), or -EPROTO when
        the queue is broken. A slot's writable ranges survive until it is free, whatever becomes of its request.
        """
        return -EPROTO

    cdef void take(self, uint16_t head_index, uint64_t counter) noexcept nogil:
        """Take the chain that `peek` has named: it is in flight, and the one behind it is next."""

    cdef void unpop(self, uint16_t head_index) noexcept nogil:
        """Leave to the driver the chain that was taken last: it is not in flight, and next again."""

    cdef bint is_inflight(self, uint16_t head_index) noexcept nogil:
        """Whether the in-flight record has the head in flight. The front end can write the record."""
        return False

    cdef bint is_inflight_as(self, uint16_t head_index, uint64_t counter) noexcept nogil:
        """Whether the head is in flight with this counter, that is, for this very request."""
        return False

    cdef void adopt(self, uint16_t head_index, uint64_t counter) noexcept nogil:
        """Have a chain in flight that an earlier process has taken; the record is put right where it says otherwise."""

    cdef uint32_t count_inflight(self) noexcept nogil:
        return 0

    cdef void give_back(self, uint16_t head_index, uint32_t length_bytes) noexcept nogil:
        """Put a chain into the batch that the driver sees with the next `publish`."""

    cdef void publish(self) noexcept nogil:
        """Let the driver see all that was given back."""

    cdef bint needs_call(self) noexcept nogil:
        """Whether the driver wants a call for what was published since this was last asked."""
        return True

    cdef void forget(self, uint16_t head_index) noexcept nogil:
        """A chain that was published is not in flight any more."""

    cdef void settle(self) noexcept nogil:
        """All that was published is forgotten: the record agrees with the ring again."""

    cdef bint arm(self) noexcept nogil:
        """Ask the driver for a kick at the next chain; True when there already is one."""
        return True

    cdef void disarm(self) noexcept nogil:
        """Ask for no kicks while the ring is watched anyway."""

    cdef void log_ring(self) noexcept nogil:
        """Mark all of the ring that the device writes, where that is wanted."""

    # One chain, one batch at a time: for tests and fuzzing.

    def pop(self):
        """Take the next chain: `(head_index, flags, readable ranges, writable ranges)`, or None.

        Ranges are `(region_index, offset_bytes, length_bytes)`; flags a set of CHAIN_* bits. None as well
        when the queue is broken.
        """
        cdef RequestSlot slot
        cdef int head, flags
        if self.broken or self.available_count() <= 0:
            return None
        head = self.peek()
        if head < 0:
            return None
        cdef uint32_t room = self.chain_limit + REGION_LIMIT
        cdef Range *ranges = <Range *>malloc(room * sizeof(Range))
        if ranges == NULL:
            raise MemoryError
        try:
            flags = self.read(<uint16_t>head, &slot, ranges, room)
            if flags < 0:
                return None
            self.take(<uint16_t>head, self.next_counter)
            self.next_counter += 1
            pieces = [(ranges[i].region_index, ranges[i].offset_bytes, ranges[i].length_bytes)
                      for i in range(slot.readable_count + slot.writable_count)]
        finally:
            free(ranges)
        return head, flags, pieces[: slot.readable_count], pieces[slot.readable_count :]

    def push(self, completions):
        """Give `(head_index, length_bytes)` pairs back in one batch; True when the driver wants a call."""
        for head_index, length_bytes in completions:
            self.give_back(head_index, length_bytes)
        self.publish()
        needs_call = self.needs_call()
        for head_index, _ in completions:
            self.forget(head_index)
        self.settle()
        return needs_call

    def ask_for_kick(self):
        """Ask for a kick at the next chain; True when one is there already."""
        return self.arm()
