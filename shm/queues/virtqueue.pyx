# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The device's side of a split virtqueue (virtio 1.2, 2.7).

Guest memory may change under the reader, so each word of it is read once and the copy is checked. What a
correct driver cannot write to the rings or the descriptor table (an index out of range, a loop, more chains
than entries) marks the queue broken: what else they say is worth nothing. It stays so until it is reset, and
nothing more is popped from it. What only makes one request bad (an address outside memory, whatever is wrong
with its indirect table) is told by `read_chain`, for a status byte to say.
"""

from libc.errno cimport E2BIG, EPROTO
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ringblk.shm.sync.atomic cimport full_fence, load_acquire_16, load_relaxed_16, store_relaxed_16, store_release_16
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.layout.region_set cimport REGION_LIMIT
from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.layout.split_ring cimport (
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MAX_QUEUE_SIZE, MIN_QUEUE_SIZE,
    USED_F_NO_NOTIFY, Descriptor, UsedElement, avail_ring_bytes, desc_table_bytes, needs_event, used_ring_bytes,
)
from ringblk.shm.state.segment cimport CHAIN_LIMIT

BROKEN_REASONS = {
    BROKEN_AVAIL_COUNT: "the avail index is more than the queue size ahead",
    BROKEN_HEAD_INDEX: "a head index is out of range",
    BROKEN_HEAD_IN_FLIGHT: "a descriptor chain was offered again while in flight",
    BROKEN_NEXT_INDEX: "a descriptor's next field is out of range",
    BROKEN_LOOP: "a descriptor chain loops",
    BROKEN_INFLIGHT: "the in-flight region contradicts the ring",
    BROKEN_MEMORY: "memory that the front end shares is gone",
}


class RingError(Exception):
    """A virtqueue's rings are not where they can be: size, alignment or place in guest memory.

    The front end set them up wrongly: refuse its request to start the queue.
    """


cdef class Virtqueue:
    """One queue, popped and completed by one dispatcher.

    A chain has at most as many descriptors as the queue (virtio 1.2, 2.7.5.3.1). Drivers do not keep to that in
    indirect tables: Linux goes by what the device offers (`seg_max` + 2, here `chain_limit`), Windows by what
    QEMU takes. So each of the three is enough.
    """

    def __init__(self, uint16_t queue_index, uint32_t queue_size, GuestMemory memory, uint64_t desc_uva,
                 uint64_t avail_uva, uint64_t used_uva, bint event_idx, uint32_t chain_limit=0):
        if not MIN_QUEUE_SIZE <= queue_size <= MAX_QUEUE_SIZE or queue_size & (queue_size - 1):
            raise RingError(f"queue {queue_index}: size {queue_size} is not a power of two from 2 to 32768")
        cdef Rings *rings = &self.rings
        rings.queue_index = queue_index
        rings.queue_size = queue_size
        rings.event_idx = event_idx
        rings.chain_limit = max(queue_size, chain_limit, <uint32_t>CHAIN_LIMIT)
        rings.broken = 0
        self.memory = memory
        self.desc_uva = desc_uva
        self.avail_uva = avail_uva
        self.used_uva = used_uva
        self.remap()
        rings.next_used = rings.published_used = rings.called_used = ring_used_idx(rings)

    def remap(self):
        """Find the rings in the region table as it is now. Raises `RingError`; they stay where they were then."""
        cdef Rings *rings = &self.rings
        cdef uint8_t *desc_table = self.memory.at_uva(self.desc_uva, desc_table_bytes(rings.queue_size))
        cdef uint8_t *avail_ring = self.memory.at_uva(self.avail_uva, avail_ring_bytes(rings.queue_size))
        cdef uint8_t *used_ring = self.memory.at_uva(self.used_uva, used_ring_bytes(rings.queue_size))
        for name, uva, align_bytes, found in (
            ("descriptor table", self.desc_uva, 16, desc_table != NULL),
            ("avail ring", self.avail_uva, 2, avail_ring != NULL),
            ("used ring", self.used_uva, 4, used_ring != NULL),
        ):
            where = f"queue {rings.queue_index}: its {name} at {uva:#x}"
            if not found:
                raise RingError(f"{where} is not within one memory region")
            if uva % align_bytes:
                raise RingError(f"{where} is not aligned to {align_bytes}")
        rings.desc_table = desc_table
        rings.avail_ring = avail_ring
        rings.used_ring = used_ring

    def start(self, uint16_t next_avail):
        """Go on popping at avail entry `next_avail`."""
        self.rings.next_avail = next_avail

    @property
    def used_idx(self):
        """used.idx as it stands in guest memory."""
        return ring_used_idx(&self.rings)

    @property
    def next_avail(self):
        """The avail entry to be popped next."""
        return self.rings.next_avail

    @property
    def queue_size(self):
        """Entries in each ring."""
        return self.rings.queue_size

    @property
    def broken(self):
        """Why the queue is broken (a key of `BROKEN_REASONS`), 0 while it works."""
        return self.rings.broken

    def pop(self):
        """Pop the next chain: `(head_index, flags, readable ranges, writable ranges)`, or None.

        Ranges are `(region_index, offset_bytes, length_bytes)`; flags a set of CHAIN_* bits. None as well
        when the queue is broken.
        """
        cdef RequestSlot slot
        cdef int head, flags
        if self.rings.broken or avail_count(&self.rings) <= 0:
            return None
        head = peek_head(&self.rings)
        if head < 0:
            return None
        cdef uint32_t room = self.rings.chain_limit + REGION_LIMIT
        cdef Range *ranges = <Range *>malloc(room * sizeof(Range))
        if ranges == NULL:
            raise MemoryError
        try:
            flags = read_chain(&self.rings, <uint16_t>head, self.memory, &slot, ranges, room)
            if flags < 0:
                return None
            self.rings.next_avail += 1
            pieces = [(ranges[i].region_index, ranges[i].offset_bytes, ranges[i].length_bytes)
                      for i in range(slot.readable_count + slot.writable_count)]
        finally:
            free(ranges)
        return head, flags, pieces[: slot.readable_count], pieces[slot.readable_count :]

    def push(self, completions):
        """Give `(head_index, length_bytes)` pairs back in one batch; True when the driver wants a call."""
        for head_index, length_bytes in completions:
            push_used(&self.rings, head_index, length_bytes)
        publish_used(&self.rings)
        return needs_call(&self.rings)

    def arm(self):
        """Ask for a kick at the next chain; True when one is there already."""
        return arm_kick(&self.rings)


cdef uint16_t ring_used_idx(Rings *rings) noexcept nogil:
    return load_acquire_16(used_word(rings, 1))


cdef int set_broken(Rings *rings, uint32_t reason) noexcept nogil:
    if rings.broken == 0:
        rings.broken = reason
    return -EPROTO


cdef int avail_count(Rings *rings) noexcept nogil:
    """Chains offered and not popped; -EPROTO when that is more than there can be."""
    # Acquire: pairs with the driver's release of avail.idx after its entries and descriptors.
    cdef uint16_t count = load_acquire_16(avail_word(rings, 1)) - rings.next_avail
    if count > rings.queue_size:
        return set_broken(rings, BROKEN_AVAIL_COUNT)
    return count


cdef int peek_head(Rings *rings) noexcept nogil:
    """The head index at `next_avail` (there must be one); -EPROTO when it is out of range."""
    cdef uint16_t head = load_relaxed_16(avail_word(rings, 2 + (rings.next_avail & (rings.queue_size - 1))))
    if head >= rings.queue_size:
        return set_broken(rings, BROKEN_HEAD_INDEX)
    return head


cdef int read_chain(Rings *rings, uint16_t head_index, GuestMemory memory, RequestSlot *slot, Range *ranges,
                    uint32_t room) noexcept nogil:
    """Copy and resolve a chain into `ranges`: readable pieces, then writable ones, counted in the slot.

    The last writable byte, where there is one in the guest's memory, becomes the slot's status byte.
    Returns 0, a set of ChainFlags when the request is bad (its ranges are not complete then), or -EPROTO when
    the queue is broken.
    """
    cdef Descriptor entry
    cdef uint32_t index = head_index
    cdef int flags = 0
    slot.readable_count = 0
    slot.writable_count = 0
    slot.has_status = False
    rings.descriptors_left = rings.chain_limit
    for _ in range(rings.queue_size):
        # The one read; what is checked is the copy.
        memcpy(&entry, <Descriptor *>rings.desc_table + index, sizeof(Descriptor))
        if not entry.flags & DESC_F_INDIRECT:
            flags = _take_descriptor(rings, &entry, memory, slot, ranges, room, flags)
        elif not flags & CHAIN_BAD_TABLE:   # one table is enough to find a status byte in
            flags = _read_indirect(rings, &entry, memory, slot, ranges, room, flags)
            if entry.flags & DESC_F_NEXT:   # must not be (2.7.5.3.1); what follows may be anything
                flags |= CHAIN_BAD_TABLE
        if not entry.flags & DESC_F_NEXT:
            break
        if entry.next >= rings.queue_size:
            if flags & CHAIN_BAD_TABLE:
                break
            return set_broken(rings, BROKEN_NEXT_INDEX)
        index = entry.next
    else:
        if not flags & CHAIN_BAD_TABLE:
            return set_broken(rings, BROKEN_LOOP)
    if slot.has_status:
        slot.has_status = memory.translate(rings.last_writable_gpa, 1, &slot.status_range, 1) == 1
    return flags


cdef int _take_descriptor(Rings *rings, const Descriptor *entry, GuestMemory memory, RequestSlot *slot, Range *ranges,
                          uint32_t room, int flags) noexcept nogil:
    """Resolve a descriptor behind the ranges that are there; `flags`, with what makes the request bad."""
    cdef uint32_t used_room
    cdef int count
    if entry.flags & DESC_F_WRITE and entry.length_bytes:
        rings.last_writable_gpa = entry.gpa + entry.length_bytes - 1
        slot.has_status = True
    if flags:   # of a bad request nothing is used but its status byte
        return flags
    if rings.descriptors_left == 0:
        return CHAIN_BAD_TABLE   # the descriptor table alone has no more than a chain may have
    rings.descriptors_left -= 1
    used_room = slot.readable_count + slot.writable_count
    count = memory.translate(entry.gpa, entry.length_bytes, ranges + used_room, <int>(room - used_room))
    if count < 0:
        return CHAIN_NO_ROOM if count == -E2BIG else CHAIN_BAD_ADDRESS
    if entry.flags & DESC_F_WRITE:
        slot.writable_count += count
    elif slot.writable_count:
        return CHAIN_BAD_ORDER
    else:
        slot.readable_count += count
    return 0


cdef int _read_indirect(Rings *rings, const Descriptor *table_entry, GuestMemory memory, RequestSlot *slot,
                        Range *ranges, uint32_t room, int flags) noexcept nogil:
    """Follow a chain through its indirect table; `flags`, with what makes the request bad.

    A bad table is read all the same where all of it is memory: most have a status byte.
    """
    cdef Range place
    cdef Descriptor entry
    cdef Descriptor *table = NULL
    cdef uint32_t index = 0, table_size = table_entry.length_bytes // <uint32_t>sizeof(Descriptor)
    if table_entry.length_bytes % sizeof(Descriptor) or table_size > MAX_QUEUE_SIZE:
        flags |= CHAIN_BAD_TABLE
        table_size = min(table_size, <uint32_t>MAX_QUEUE_SIZE)
    if memory.translate(table_entry.gpa, table_entry.length_bytes, &place, 1) == 1:
        table = <Descriptor *>memory.pointer(&place)
    elif not memory.holds(table_entry.gpa, table_entry.length_bytes):
        return flags | CHAIN_BAD_ADDRESS
    for _ in range(table_size):
        # The one read; what is checked is the copy.
        if table != NULL:
            memcpy(&entry, table + index, sizeof(Descriptor))
        elif not _gather(memory, table_entry.gpa + index * sizeof(Descriptor), &entry):
            return flags | CHAIN_BAD_ADDRESS
        if entry.flags & DESC_F_INDIRECT:
            flags |= CHAIN_BAD_TABLE   # must not be nested (2.7.5.3.1)
        else:
            flags = _take_descriptor(rings, &entry, memory, slot, ranges, room, flags)
        if not entry.flags & DESC_F_NEXT:
            return flags
        if entry.next >= table_size:
            break
        index = entry.next
    return flags | CHAIN_BAD_TABLE   # it leads out of the table, loops, or there is none


cdef bint _gather(GuestMemory memory, uint64_t gpa, Descriptor *entry) noexcept nogil:
    """Copy a descriptor that may be cut by the end of a region; False when it is outside guest memory."""
    cdef Range pieces[16]   # a byte each at worst
    cdef uint8_t *target = <uint8_t *>entry
    cdef int index, count = memory.translate(gpa, sizeof(Descriptor), pieces, 16)
    for index in range(count):
        memcpy(target, memory.pointer(pieces + index), pieces[index].length_bytes)
        target += pieces[index].length_bytes
    return count > 0


cdef void push_used(Rings *rings, uint16_t head_index, uint32_t length_bytes) noexcept nogil:
    """Write a used element; the driver sees it with the next `publish_used`."""
    cdef UsedElement *element = (<UsedElement *>(rings.used_ring + 4)
                                 + (rings.next_used & (rings.queue_size - 1)))
    element.head_index = head_index
    element.length_bytes = length_bytes
    crash_point("ring: used element written")
    rings.next_used += 1


cdef void publish_used(Rings *rings) noexcept nogil:
    """Move used.idx over all pushed elements."""
    # Release: pairs with the driver's acquire of used.idx before it reads elements and data.
    store_release_16(used_word(rings, 1), rings.next_used)
    crash_point("ring: used index published")
    rings.published_used = rings.next_used


cdef bint needs_call(Rings *rings) noexcept nogil:
    """Whether the driver wants a call for what was published since this was last asked (2.7.7)."""
    cdef uint16_t old_used = rings.called_used
    rings.called_used = rings.published_used
    # Full fence: used.idx before used_event or flags; pairs with the driver's between writing
    # used_event and its last look at used.idx.
    full_fence()
    if rings.event_idx:
        return needs_event(load_relaxed_16(avail_word(rings, 2 + rings.queue_size)), rings.published_used, old_used)
    return not load_relaxed_16(avail_word(rings, 0)) & AVAIL_F_NO_INTERRUPT


cdef bint arm_kick(Rings *rings) noexcept nogil:
    """Ask the driver for a kick at the next chain; True when there already is one (2.7.10)."""
    if rings.event_idx:
        store_relaxed_16(used_word(rings, 2 + 4 * rings.queue_size), rings.next_avail)
    else:
        store_relaxed_16(used_word(rings, 0), 0)
    crash_point("ring: kick asked for")
    # Full fence: avail_event before avail.idx; pairs with the driver's between moving avail.idx and
    # reading avail_event.
    full_fence()
    return load_acquire_16(avail_word(rings, 1)) != rings.next_avail


cdef void disarm_kick(Rings *rings) noexcept nogil:
    """Ask for no kicks while the rings are watched anyway; with EVENT_IDX an old avail_event does it."""
    if not rings.event_idx:
        store_relaxed_16(used_word(rings, 0), USED_F_NO_NOTIFY)
