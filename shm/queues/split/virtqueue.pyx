# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The device's side of a split virtqueue (virtio 1.2, 2.7).

Guest memory may change under the reader, so each word of it is read once and the copy is checked. What a
correct driver cannot write to the rings or the descriptor table (an index out of range, a loop, more chains
than entries) marks the queue broken: what else they say is worth nothing. It stays so until it is reset, and
nothing more is popped from it. What only makes one request bad (an address outside memory, whatever is wrong
with its indirect table) is told by `read`, for the device kind to answer.
"""

cimport cython
from libc.errno cimport EPROTO
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from ringblk.shm.sync.atomic cimport full_fence, load_acquire_16, load_relaxed_16, store_relaxed_16, store_release_16
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.sync.invariant cimport invariant
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.layout.split_ring cimport (
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MAX_QUEUE_SIZE, USED_F_NO_NOTIFY, Descriptor,
    UsedElement, avail_ring_bytes, desc_table_bytes, needs_event, used_ring_bytes,
)
from ringblk.shm.queues.chain cimport ChainCopy, add_buffer, begin_copy, end_copy
from ringblk.shm.queues.split.inflight cimport (
    SplitInflight, inflight_clear, inflight_is_marked, inflight_link, inflight_mark, inflight_settle,
)
from ringblk.shm.queues.virtqueue cimport (
    BROKEN_AVAIL_COUNT, BROKEN_HEAD_IN_FLIGHT, BROKEN_HEAD_INDEX, BROKEN_LOOP, BROKEN_NEXT_INDEX, CHAIN_BAD_ADDRESS,
    CHAIN_BAD_TABLE, Virtqueue,
)

from ringblk.shm.queues.errors import RingError


@cython.final
cdef class SplitVirtqueue(Virtqueue):
    """Rings at these addresses of the front end. Raises `RingError` where they cannot be."""

    def __init__(self, uint16_t queue_index, uint32_t queue_size, GuestMemory memory, uint64_t desc_uva,
                 uint64_t avail_uva, uint64_t used_uva, bint event_idx, uint32_t chain_limit=0):
        Virtqueue.__init__(self, queue_index, queue_size, memory, chain_limit)
        self.event_idx = event_idx
        self.desc_uva = desc_uva
        self.avail_uva = avail_uva
        self.used_uva = used_uva
        self.remap()
        self.next_used = self.published_used = self.called_used = self.used_idx

    def remap(self):
        cdef uint8_t *desc_table = self.memory.at_uva(self.desc_uva, desc_table_bytes(self.queue_size))
        cdef uint8_t *avail_ring = self.memory.at_uva(self.avail_uva, avail_ring_bytes(self.queue_size))
        cdef uint8_t *used_ring = self.memory.at_uva(self.used_uva, used_ring_bytes(self.queue_size))
        for name, uva, align_bytes, found in (
            ("descriptor table", self.desc_uva, 16, desc_table != NULL),
            ("avail ring", self.avail_uva, 2, avail_ring != NULL),
            ("used ring", self.used_uva, 4, used_ring != NULL),
        ):
            where = f"queue {self.queue_index}: its {name} at {uva:#x}"
            if not found:
                raise RingError(f"{where} is not within one memory region")
            if uva % align_bytes:
                raise RingError(f"{where} is not aligned to {align_bytes}")
        self.desc_table = <Descriptor *>desc_table
        self.avail_ring = <uint16_t *>avail_ring
        self.used_ring = <uint16_t *>used_ring

    def resume(self, mapping, size_t offset_bytes, uint16_t base):
        record = SplitInflight(mapping, offset_bytes, self.queue_size)
        is_fresh = record.is_fresh
        cdef uint16_t used_idx = self.used_idx
        heads = record.recover(used_idx)
        self.inflight = record
        self.record = &self.inflight.record
        self.recovered = record.recovered
        self.next_counter = self.record.next_counter
        # All that was taken was given back or is in flight.
        self.next_avail = base if is_fresh else <uint16_t>(used_idx + <uint32_t>len(heads))
        return heads

    @property
    def used_idx(self):
        return load_acquire_16(self.used_ring + IDX_WORD)

    # From the driver.

    cdef int available_count(self) noexcept nogil:
        # Acquire: pairs with the driver's release of avail.idx after its entries and descriptors.
        cdef uint16_t count = load_acquire_16(self.avail_ring + IDX_WORD) - self.next_avail
        if count > self.queue_size:
            return self.mark_broken(BROKEN_AVAIL_COUNT)
        return count

    cdef int peek(self) noexcept nogil:
        cdef uint16_t head_index = load_relaxed_16(
            self.avail_ring + ENTRIES_WORD + (self.next_avail & (self.queue_size - 1)))
        if head_index >= self.queue_size:
            return self.mark_broken(BROKEN_HEAD_INDEX)
        if inflight_is_marked(self.record, head_index):
            return self.mark_broken(BROKEN_HEAD_IN_FLIGHT)
        return head_index

    cdef int read(self, uint16_t head_index, RequestSlot *slot, Range *ranges, uint32_t room) noexcept nogil:
        cdef ChainCopy copy
        cdef int flags
        begin_copy(&copy, slot, ranges, room, self.chain_limit)
        flags = self._follow(head_index, &copy)
        if flags >= 0:
            end_copy(&copy, self.memory)
        return flags

    cdef int _follow(self, uint16_t head_index, ChainCopy *copy) noexcept nogil:
        """Follow a chain through the descriptor table; what `read` returns."""
        cdef Descriptor entry
        cdef uint32_t index = head_index
        cdef int flags = 0
        for _ in range(self.queue_size):
            # The one read; what is checked is the copy.
            memcpy(&entry, self.desc_table + index, sizeof(Descriptor))
            if not entry.flags & DESC_F_INDIRECT:
                flags = take_descriptor(copy, self.memory, &entry, flags)
            elif not flags & CHAIN_BAD_TABLE:   # one table is enough to find a last byte in
                flags = read_indirect(copy, self.memory, &entry, flags)
                if entry.flags & DESC_F_NEXT:   # must not be (2.7.5.3.1); what follows may be anything
                    flags |= CHAIN_BAD_TABLE
            if not entry.flags & DESC_F_NEXT:
                return flags
            if entry.next >= self.queue_size:
                return flags if flags & CHAIN_BAD_TABLE else self.mark_broken(BROKEN_NEXT_INDEX)
            index = entry.next
        return flags if flags & CHAIN_BAD_TABLE else self.mark_broken(BROKEN_LOOP)

    cdef void take(self, uint16_t head_index, uint64_t counter) noexcept nogil:
        inflight_mark(self.record, head_index, counter)
        self.record.count += 1
        self.next_avail += 1

    cdef void unpop(self, uint16_t head_index) noexcept nogil:
        invariant(self.record.count > 0, "no more chains are over than were taken")
        inflight_clear(self.record, head_index)
        self.next_avail -= 1

    cdef bint is_inflight(self, uint16_t head_index) noexcept nogil:
        return inflight_is_marked(self.record, head_index)

    cdef bint is_inflight_as(self, uint16_t head_index, uint64_t counter) noexcept nogil:
        return inflight_is_marked(self.record, head_index) and self.record.entries[head_index].counter == counter

    cdef void adopt(self, uint16_t head_index, uint64_t counter) noexcept nogil:
        if not self.is_inflight_as(head_index, counter):
            inflight_mark(self.record, head_index, counter)
        self.record.count += 1

    cdef uint32_t count_inflight(self) noexcept nogil:
        return self.record.count

    # To the driver.

    cdef void give_back(self, uint16_t head_index, uint32_t length_bytes) noexcept nogil:
        cdef UsedElement *elements = <UsedElement *>(self.used_ring + ENTRIES_WORD)
        cdef UsedElement *element = elements + (self.next_used & (self.queue_size - 1))
        invariant(head_index < self.queue_size, "a chain that is given back is of the queue")
        inflight_link(self.record, head_index)
        element.head_index = head_index
        element.length_bytes = length_bytes
        crash_point("ring: used element written")
        self.next_used += 1

    cdef void publish(self) noexcept nogil:
        # Release: pairs with the driver's acquire of used.idx before it reads elements and data.
        store_release_16(self.used_ring + IDX_WORD, self.next_used)
        crash_point("ring: used index published")
        if self.is_logged and self.memory.is_logged:
            self._log_published()
        self.published_used = self.next_used

    cdef void _log_published(self) noexcept nogil:
        """Mark what `give_back` and `publish` have written. The driver may know by now; its front end stops us first."""
        cdef uint32_t place = self.published_used & (self.queue_size - 1)
        cdef uint32_t count = <uint16_t>(self.next_used - self.published_used)
        if place + count > self.queue_size:   # round the end
            self.log_ring()
            return
        self.memory.log.mark(self.log_gpa, 2 * ENTRIES_WORD)
        self.memory.log.mark(self.log_gpa + 2 * ENTRIES_WORD + sizeof(UsedElement) * place, sizeof(UsedElement) * count)

    cdef void log_ring(self) noexcept nogil:
        if self.is_logged and self.memory.is_logged:
            self.memory.log.mark(self.log_gpa, used_ring_bytes(self.queue_size))

    cdef bint needs_call(self) noexcept nogil:
        cdef uint16_t old_used = self.called_used
        self.called_used = self.published_used
        # Full fence: used.idx before used_event or flags; pairs with the driver's between writing
        # used_event and its last look at used.idx.
        full_fence()
        if self.event_idx:   # 2.7.7: used_event stands behind the avail ring's entries
            return needs_event(load_relaxed_16(self.avail_ring + ENTRIES_WORD + self.queue_size), self.published_used,
                               old_used)
        return not load_relaxed_16(self.avail_ring) & AVAIL_F_NO_INTERRUPT

    cdef void forget(self, uint16_t head_index) noexcept nogil:
        invariant(self.record.count > 0, "no more chains are over than were taken")
        inflight_clear(self.record, head_index)

    cdef void settle(self) noexcept nogil:
        inflight_settle(self.record, self.published_used)

    cdef bint arm(self) noexcept nogil:
        if self.event_idx:   # 2.7.10: avail_event stands behind the used ring's entries
            store_relaxed_16(self.used_ring + ENTRIES_WORD + ELEMENT_WORDS * self.queue_size, self.next_avail)
        else:
            store_relaxed_16(self.used_ring, 0)
        crash_point("ring: kick asked for")
        self.log_ring()
        # Full fence: avail_event before avail.idx; pairs with the driver's between moving avail.idx and
        # reading avail_event.
        full_fence()
        return load_acquire_16(self.avail_ring + IDX_WORD) != self.next_avail

    cdef void disarm(self) noexcept nogil:
        if not self.event_idx:   # with it, an old avail_event does
            store_relaxed_16(self.used_ring, USED_F_NO_NOTIFY)
            self.log_ring()


cdef inline int take_descriptor(ChainCopy *copy, GuestMemory memory, const Descriptor *entry,
                                int flags) noexcept nogil:
    return add_buffer(copy, memory, entry.gpa, entry.length_bytes, entry.flags & DESC_F_WRITE, flags)


cdef int read_indirect(ChainCopy *copy, GuestMemory memory, const Descriptor *table_entry,
                       int flags) noexcept nogil:
    """Follow a chain through its indirect table; `flags`, with what makes the request bad.

    A bad table is read all the same where all of it is memory: most have a last byte to answer in.
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
        elif not gather(memory, table_entry.gpa + index * sizeof(Descriptor), &entry):
            return flags | CHAIN_BAD_ADDRESS
        if entry.flags & DESC_F_INDIRECT:
            flags |= CHAIN_BAD_TABLE   # must not be nested (2.7.5.3.1)
        else:
            flags = take_descriptor(copy, memory, &entry, flags)
        if not entry.flags & DESC_F_NEXT:
            return flags
        if entry.next >= table_size:
            break
        index = entry.next
    return flags | CHAIN_BAD_TABLE   # it leads out of the table, loops, or there is none


cdef bint gather(GuestMemory memory, uint64_t gpa, Descriptor *entry) noexcept nogil:
    """Copy a descriptor that may be cut by the end of a region; False when it is outside guest memory."""
    cdef Range pieces[16]   # a byte each at worst
    cdef uint8_t *target = <uint8_t *>entry
    cdef int index, count = memory.translate(gpa, sizeof(Descriptor), pieces, 16)
    for index in range(count):
        memcpy(target, memory.pointer(pieces + index), pieces[index].length_bytes)
        target += pieces[index].length_bytes
    return count > 0
