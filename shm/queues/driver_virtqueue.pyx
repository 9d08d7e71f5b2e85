# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The driver's side of a split virtqueue (virtio 1.2, 2.7), on memory that it shares with the device.

The driver writes descriptors and the avail ring, the device writes the used ring. Nothing that the
device writes is trusted: the driver keeps the free list, the links of its chains and their lengths in
memory of its own, and a used element that does not fit them marks the queue broken, for good.

Adding, publishing and kicking are three steps, so that a batch of requests costs one index store and
at most one kick. One thread uses a queue at a time.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EINVAL, ENOSPC, EPROTO
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ringblk.shm.sync.atomic cimport (
    full_fence,
    load_acquire_16,
    load_relaxed_16,
    store_relaxed_16,
    store_release_16,
)
from ringblk.shm.layout.split_ring cimport (
    AVAIL_F_NO_INTERRUPT,
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    MAX_QUEUE_SIZE,
    USED_F_NO_NOTIFY,
    USED_RING_ENTRIES,
    Descriptor,
    UsedElement,
    avail_ring_bytes,
    desc_table_bytes,
    needs_event,
    used_ring_bytes,
)

from ringblk.shm.layout.sizes import queue_size_fault
from ringblk.shm.queues.driver_errors import DeviceBroken, QueueFull

cdef enum:
    CACHE_LINE_BYTES = 64
    # Offsets in 16-bit words from the start of either ring.
    FLAGS_WORD = 0
    IDX_WORD = 1
    AVAIL_ENTRIES_WORD = 2


cdef inline uint64_t align_up(uint64_t value, uint64_t align) noexcept nogil:
    return (value + align - 1) & ~(align - 1)


def ring_bytes(queue_size: int) -> int:
    """How many bytes a queue's three rings take together, as DriverVirtqueue lays them out."""
    _check_queue_size(queue_size)
    cdef uint64_t size_bytes = align_up(desc_table_bytes(queue_size), CACHE_LINE_BYTES)
    size_bytes += align_up(avail_ring_bytes(queue_size), CACHE_LINE_BYTES)
    return size_bytes + align_up(used_ring_bytes(queue_size), CACHE_LINE_BYTES)


def _check_queue_size(queue_size: int) -> None:
    if fault := queue_size_fault(queue_size):
        raise ValueError(f"queue size {fault}")


cdef class DriverVirtqueue:
    """A split virtqueue as its driver uses it.

    `memory` is a writable buffer shared with the device, whose first byte has guest physical address
    `gpa`; the rings are laid out in it from `offset_bytes` on (the sum with `gpa` must be a multiple of
    64) and set to zero. Raises ValueError for a queue size that virtio does not allow (2.7: a power of
    two up to 32768; 2 at least here) and for rings that do not fit.
    """

    def __cinit__(self, memory, gpa: int, queue_size: int, *, offset_bytes: int = 0, event_idx: bool = True):
        cdef uint64_t offset = offset_bytes
        _check_queue_size(queue_size)
        PyObject_GetBuffer(memory, &self.memory_view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self.memory_held = True
        self.memory_base = <uint8_t *>self.memory_view.buf
        self.memory_bytes = self.memory_view.len
        self.gpa = gpa
        self.queue_size = queue_size
        self.event_idx = event_idx
        if (offset + self.gpa) % CACHE_LINE_BYTES or <uint64_t>(self.memory_base + offset) % sizeof(uint64_t):
            raise ValueError(f"rings at offset {offset} are not aligned to {CACHE_LINE_BYTES} bytes")
        if offset > self.memory_bytes or ring_bytes(queue_size) > self.memory_bytes - offset:
            raise ValueError(f"rings of {ring_bytes(queue_size)} bytes at offset {offset} do not fit")
        self.next_desc = <uint16_t *>calloc(queue_size, sizeof(uint16_t))
        self.desc_count = <uint16_t *>calloc(queue_size, sizeof(uint16_t))
        self.writable_bytes = <uint64_t *>calloc(queue_size, sizeof(uint64_t))
        if self.next_desc == NULL or self.desc_count == NULL or self.writable_bytes == NULL:
            raise MemoryError
        self._lay_out(offset)

    def __dealloc__(self):
        free(self.next_desc)
        free(self.desc_count)
        free(self.writable_bytes)
        if self.memory_held:
            PyBuffer_Release(&self.memory_view)

    cdef void _lay_out(self, uint64_t offset):
        cdef uint64_t avail_offset = align_up(offset + desc_table_bytes(self.queue_size), CACHE_LINE_BYTES)
        cdef uint64_t avail_bytes = avail_ring_bytes(self.queue_size)
        cdef uint64_t used_offset = align_up(avail_offset + avail_bytes, CACHE_LINE_BYTES)
        cdef uint32_t desc_index
        memset(self.memory_base + offset, 0, used_offset + used_ring_bytes(self.queue_size) - offset)
        self.desc_table = <Descriptor *>(self.memory_base + offset)
        self.avail_ring = <uint16_t *>(self.memory_base + avail_offset)
        self.avail_entries = self.avail_ring + AVAIL_ENTRIES_WORD
        self.used_event = self.avail_entries + self.queue_size
        self.used_ring = <uint16_t *>(self.memory_base + used_offset)
        self.desc_gpa = self.gpa + offset
        self.avail_gpa = self.gpa + avail_offset
        self.used_gpa = self.gpa + used_offset
        for desc_index in range(self.queue_size):
            self.next_desc[desc_index] = <uint16_t>(desc_index + 1)
        self.free_count = self.queue_size

    # Adding chains.

    cdef int add_direct(self, const Piece *pieces, uint32_t piece_count) noexcept nogil:
        """Add a chain of one descriptor per piece; its head index, -ENOSPC or -EINVAL."""
        cdef uint16_t head_index = self.free_head
        cdef uint16_t desc_index = head_index
        cdef uint32_t piece_index
        cdef Descriptor *descriptor
        if piece_count == 0:
            return -EINVAL
        if piece_count > self.free_count:
            return -EINVAL if piece_count > self.queue_size else -ENOSPC
        self.writable_bytes[head_index] = 0
        for piece_index in range(piece_count):
            descriptor = &self.desc_table[desc_index]
            descriptor.gpa = pieces[piece_index].gpa
            descriptor.length_bytes = pieces[piece_index].length_bytes
            descriptor.flags = DESC_F_WRITE if pieces[piece_index].writable else 0
            descriptor.next = 0
            if pieces[piece_index].writable:
                self.writable_bytes[head_index] += pieces[piece_index].length_bytes
            if piece_index + 1 < piece_count:
                descriptor.flags |= DESC_F_NEXT
                descriptor.next = self.next_desc[desc_index]
            desc_index = self.next_desc[desc_index]
        self.free_head = desc_index
        self.free_count -= piece_count
        self.desc_count[head_index] = <uint16_t>piece_count
        self.offer_head(head_index)
        return head_index

    cdef int add_indirect(self, const Piece *pieces, uint32_t piece_count, Descriptor *table,
                          uint64_t table_gpa) noexcept nogil:
        """Add a chain as one descriptor that refers to `table` (room for piece_count descriptors)."""
        cdef uint16_t head_index = self.free_head
        cdef uint32_t piece_index
        cdef Descriptor *descriptor
        # virtio 1.2, 2.7.5.3.1: no chain is longer than the queue size, indirect or not.
        if piece_count == 0 or piece_count > self.queue_size:
            return -EINVAL
        if self.free_count == 0:
            return -ENOSPC
        self.writable_bytes[head_index] = 0
        for piece_index in range(piece_count):
            table[piece_index].gpa = pieces[piece_index].gpa
            table[piece_index].length_bytes = pieces[piece_index].length_bytes
            table[piece_index].flags = DESC_F_WRITE if pieces[piece_index].writable else 0
            table[piece_index].next = 0
            if pieces[piece_index].writable:
                self.writable_bytes[head_index] += pieces[piece_index].length_bytes
            if piece_index + 1 < piece_count:
                table[piece_index].flags |= DESC_F_NEXT
                table[piece_index].next = <uint16_t>(piece_index + 1)
        descriptor = &self.desc_table[head_index]
        descriptor.gpa = table_gpa
        descriptor.length_bytes = piece_count * <uint32_t>sizeof(Descriptor)
        descriptor.flags = DESC_F_INDIRECT
        descriptor.next = 0
        self.free_head = self.next_desc[head_index]
        self.free_count -= 1
        self.desc_count[head_index] = 1
        self.offer_head(head_index)
        return head_index

    cdef void offer_head(self, uint16_t head_index) noexcept nogil:
        # A plain store: the release in publish_chains() orders it before the index that covers it.
        self.avail_entries[self.next_avail & (self.queue_size - 1)] = head_index
        self.next_avail += 1
        self.inflight_count += 1

    cdef uint32_t publish_chains(self) noexcept nogil:
        """Let the device see every chain added so far; how many it had not seen."""
        cdef uint32_t count = <uint16_t>(self.next_avail - self.published_avail)
        if count:
            # Pairs with the device's acquire load of avail.idx: descriptors and entries come before it.
            store_release_16(&self.avail_ring[IDX_WORD], self.next_avail)
            self.published_avail = self.next_avail
            self.unkicked_count += count
        return count

    cdef bint check_kick(self) noexcept nogil:
        """Whether the device asked to be kicked for what was published since the last call."""
        cdef uint32_t count = self.unkicked_count
        cdef uint16_t avail_event
        self.unkicked_count = 0
        if count == 0:
            return False
        # Pairs with the device's fence between writing avail_event (or NO_NOTIFY) and looking at
        # avail.idx again: either it sees the new index, or the event read here is the new one.
        full_fence()
        if not self.event_idx:
            return not load_relaxed_16(&self.used_ring[FLAGS_WORD]) & USED_F_NO_NOTIFY
        if count > 0xFFFF:
            return True
        avail_event = load_relaxed_16(&self.used_ring[2 + 4 * <size_t>self.queue_size])
        return needs_event(avail_event, self.published_avail, <uint16_t>(self.published_avail - count))

    # Taking used chains.

    cdef bint has_used(self) noexcept nogil:
        if self.seen_used == self.next_used:
            # Pairs with the device's release store of used.idx: elements and data come before it.
            self.seen_used = load_acquire_16(&self.used_ring[IDX_WORD])
        return self.seen_used != self.next_used

    cdef int next_used_element(self, UsedElement *element) noexcept nogil:
        """Take the next used chain back: 1 with `element` filled, 0 when there is none, or -EPROTO."""
        cdef uint32_t head_index
        cdef const UsedElement *elements
        if self.broken:
            return -EPROTO
        if not self.has_used():
            return 0
        if <uint16_t>(self.seen_used - self.next_used) > self.inflight_count:
            return self.mark_broken()
        elements = <const UsedElement *>(<uint8_t *>self.used_ring + USED_RING_ENTRIES)
        # Copied before it is checked: the device can still write to it.
        element[0] = (<const volatile UsedElement *>elements)[self.next_used & (self.queue_size - 1)]
        head_index = element.head_index
        if head_index >= self.queue_size or self.desc_count[head_index] == 0:
            return self.mark_broken()
        if element.length_bytes > self.writable_bytes[head_index]:
            return self.mark_broken()
        self.release_chain(<uint16_t>head_index)
        self.next_used += 1
        self.inflight_count -= 1
        return 1

    cdef int mark_broken(self) noexcept nogil:
        self.broken = True
        return -EPROTO

    cdef void release_chain(self, uint16_t head_index) noexcept nogil:
        """Put a chain's descriptors in front of the free list, its links as they are."""
        cdef uint16_t last_index = head_index
        cdef uint32_t step
        for step in range(<uint32_t>self.desc_count[head_index] - 1):
            last_index = self.next_desc[last_index]
        self.next_desc[last_index] = self.free_head
        self.free_head = head_index
        self.free_count += self.desc_count[head_index]
        self.desc_count[head_index] = 0

    cdef bint arm_call(self, uint32_t count) noexcept nogil:
        """Ask for a call when `count` chains are used; True if they are already, and no call will come."""
        if self.event_idx:
            store_relaxed_16(self.used_event, <uint16_t>(self.next_used + count - 1))
        else:
            store_relaxed_16(&self.avail_ring[FLAGS_WORD], 0)
        # Pairs with the device's fence between publishing used.idx and reading used_event (or
        # NO_INTERRUPT): either it sees the wish for a call, or the index read next is the new one.
        full_fence()
        self.seen_used = load_acquire_16(&self.used_ring[IDX_WORD])
        return <uint16_t>(self.seen_used - self.next_used) >= (count if self.event_idx else 1)

    cdef void disarm_call(self) noexcept nogil:
        """Ask for no calls. One may come all the same, now and then; it means nothing."""
        if self.event_idx:
            # As far from anything the device is about to pass as an index can be.
            store_relaxed_16(self.used_event, <uint16_t>(self.next_used + 0x8000))
        else:
            store_relaxed_16(&self.avail_ring[FLAGS_WORD], AVAIL_F_NO_INTERRUPT)

    def offer_again(self) -> None:
        """Write every chain in flight to the avail ring again, behind the used ones.

        For a new device that begins at used.idx and knows nothing of what an old one had popped. The
        caller has taken every used chain, and no old device is left that could use one.
        """
        cdef uint16_t position = self.next_used
        cdef uint32_t head_index
        for head_index in range(self.queue_size):
            if self.desc_count[head_index]:
                self.avail_entries[position & (self.queue_size - 1)] = <uint16_t>head_index
                position += 1

    # The same for Python callers.

    def add_chain(self, pieces, *, indirect_gpa: int | None = None) -> int:
        """Add a chain of (gpa, length_bytes, writable) pieces; its head index.

        Readable pieces come before writable ones (virtio 1.2, 2.7.4.2). With `indirect_gpa`, the chain
        takes one descriptor of the queue and its own table is written at that address, which must lie in
        the queue's memory and stay untouched until the chain is used. The device sees nothing of it
        before publish(). Raises QueueFull, and ValueError for a chain that no queue of this size takes.
        """
        cdef uint32_t piece_count = len(pieces)
        cdef uint32_t piece_index
        cdef int head_index
        cdef uint64_t table_gpa
        cdef Piece *copies
        cdef Descriptor *table
        if self.broken:
            raise DeviceBroken("the queue is broken")
        if not 1 <= piece_count <= self.queue_size:
            raise ValueError(f"a chain of {piece_count} pieces in a queue of {self.queue_size}")
        copies = <Piece *>calloc(piece_count, sizeof(Piece))
        if copies == NULL:
            raise MemoryError
        try:
            for piece_index in range(piece_count):
                gpa, length_bytes, writable = pieces[piece_index]
                copies[piece_index].gpa = gpa
                copies[piece_index].length_bytes = length_bytes
                copies[piece_index].writable = writable
            if indirect_gpa is None:
                head_index = self.add_direct(copies, piece_count)
            else:
                table_gpa = indirect_gpa
                table = self._table_at(table_gpa, piece_count)
                head_index = self.add_indirect(copies, piece_count, table, table_gpa)
        finally:
            free(copies)
        if head_index == -ENOSPC:
            raise QueueFull(f"a chain of {piece_count} pieces, {self.free_count} descriptors free")
        return head_index

    cdef Descriptor *_table_at(self, uint64_t table_gpa, uint32_t piece_count) except NULL:
        cdef uint64_t offset = table_gpa - self.gpa
        if table_gpa < self.gpa or offset > self.memory_bytes or \
                piece_count * sizeof(Descriptor) > self.memory_bytes - offset:
            raise ValueError(f"an indirect table at {table_gpa:#x} lies outside the queue's memory")
        return <Descriptor *>(self.memory_base + offset)

    def publish(self) -> int:
        """Let the device see every chain added so far; how many it had not seen."""
        return self.publish_chains()

    def needs_kick(self) -> bool:
        """Whether the device wants a kick for what was published since this was last asked.

        Ask once after each publish() and kick at once if it is true: the answer forgets the question.
        """
        return self.check_kick()

    def pop_used(self, max_count: int = MAX_QUEUE_SIZE) -> list[tuple[int, int]]:
        """Take back up to max_count used chains, as (head index, bytes that the device wrote).

        Raises DeviceBroken for a used element that is not of a chain in flight or says that more was
        written than the chain has room for; chains taken in the same call before it are lost with it.
        """
        cdef UsedElement element
        cdef int found
        chains = []
        while len(chains) < max_count:
            found = self.next_used_element(&element)
            if found < 0:
                raise DeviceBroken(f"used element {self.next_used} is of no chain in flight, or too long for it")
            if not found:
                break
            chains.append((element.head_index, element.length_bytes))
        return chains

    def arm(self, count: int = 1) -> bool:
        """Ask for a call when `count` chains are used; True if they are already, and no call will come.

        `count` is no more than are in flight. Without EVENT_IDX the device calls at every used chain, and
        the answer is for one.
        """
        if not 1 <= count <= max(1, self.inflight_count):
            raise ValueError(f"a call for {count} chains, {self.inflight_count} in flight")
        return self.arm_call(count)

    def disarm(self) -> None:
        """Ask for no calls. One may come all the same, now and then; it means nothing."""
        self.disarm_call()

    @property
    def used_idx(self) -> int:
        """The used ring's index as the device last stored it: where a new device begins."""
        return load_acquire_16(&self.used_ring[IDX_WORD])
