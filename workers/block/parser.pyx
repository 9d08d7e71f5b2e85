# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""From a descriptor chain to a block request: the dispatcher's half (virtio 1.2, 5.2.6).

Nothing is assumed about where descriptors are cut: the header is the first 16 device-readable bytes, the
status byte the last device-writable one, the data what lies between (2.6.4). Every check on a request is
made here, on the slot's copy; the executor trusts the slot.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.rates.limit cimport CHARGE_OTHER, CHARGE_READ, CHARGE_WRITE
from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.state.segment cimport StateSegment
from ringblk.workers.block.request cimport (
    DRIVE_ID_BYTES, HEADER_BYTES, MAX_DISCARD_SECTORS, MAX_SEGMENTS, MAX_WRITE_ZEROES_SECTORS, OPERATION_DISCARD,
    OPERATION_FLUSH, OPERATION_GET_ID, OPERATION_READ, OPERATION_WRITE, OPERATION_WRITE_ZEROES, SECTOR_BYTES,
    SEGMENT_F_UNMAP, STATUS_IOERR, STATUS_OK, STATUS_UNSUPP, TYPE_DISCARD, TYPE_FLUSH, TYPE_GET_ID, TYPE_IN, TYPE_OUT,
    TYPE_WRITE_ZEROES, BlockHeader, SectorRange,
)
from ringblk.workers.block.state cimport BlockState, block_state
from ringblk.workers.requests.chain_bytes cimport take_bytes
from ringblk.workers.requests.request cimport (
    OPERATION_COMPLETE, SLOT_BRIEF, SLOT_CHANGES, SLOT_DURABLE, SLOT_PARTIAL, RequestParser,
)

OPERATION_NAMES = ("read", "write", "flush", "get_id", "discard", "write_zeroes")
"""A slot's operation in words, from 1 on, as BlockOperation has them."""


cdef class BlockParser(RequestParser):
    """Parses and checks requests against the device that the state segment describes.

    `block_size_bytes` is the backend's: what changes a part of such a block is marked so.
    """

    cdef StateSegment state
    cdef const BlockState *device
    cdef GuestMemory memory
    cdef uint64_t block_size_bytes

    def __init__(self, StateSegment state, GuestMemory memory, uint64_t block_size_bytes):
        self.state = state
        self.device = block_state(state)
        self.memory = memory
        self.block_size_bytes = block_size_bytes

    cdef void prepare(self, uint32_t slot_index, int chain_flags) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Range *ranges = self.state.slot_ranges(slot_index)
        cdef BlockHeader header
        slot.operation = OPERATION_COMPLETE
        slot.flags = 0
        slot.status = STATUS_IOERR
        slot.charge_kind = CHARGE_OTHER
        slot.length_bytes = 0
        slot.used_length_bytes = 1 if slot.has_last_byte else 0
        slot.first_range = 0
        slot.range_count = slot.readable_count
        if chain_flags or not slot.has_last_byte or not take_bytes(self.memory, slot, ranges, &header, HEADER_BYTES):
            return
        if header.type == TYPE_IN:
            self._prepare_read(slot, ranges, header.sector)
        elif header.type == TYPE_OUT:
            self._prepare_write(slot, ranges, header.sector)
        elif header.type == TYPE_FLUSH and self.device.is_flush_offered:
            if self.device.skips_flush:
                slot.status = STATUS_OK   # there is nothing to carry out
            else:
                slot.operation = OPERATION_FLUSH
        elif header.type == TYPE_GET_ID:
            self._prepare_get_id(slot, ranges)
        elif (header.type == TYPE_DISCARD or header.type == TYPE_WRITE_ZEROES) \
                and self.device.is_discard_offered:
            self._prepare_segments(slot, ranges, header.type)
        else:
            slot.status = STATUS_UNSUPP

    cdef uint64_t affected_bytes(self, RequestSlot *slot) noexcept nogil:
        """The length of the data, or that of the segments to be discarded or zeroed."""
        cdef SectorRange *segments
        cdef uint64_t num_sectors = 0
        cdef uint32_t index
        if slot.operation != OPERATION_DISCARD and slot.operation != OPERATION_WRITE_ZEROES:
            return slot.length_bytes
        segments = <SectorRange *>self.state.slot_ranges(<uint32_t>(slot - self.state.slots)) + slot.first_range
        for index in range(slot.range_count):
            num_sectors += segments[index].num_sectors
        return num_sectors * SECTOR_BYTES

    cdef bint overlaps(self, uint32_t slot_index, uint32_t other_index) noexcept nogil:
        """Whether one of two requests changes the first or last block of the other, where that is partial."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef RequestSlot *other = &self.state.slots[other_index]
        cdef uint64_t start, end, other_start, other_end
        cdef uint32_t place, other_place
        for place in range(self._change_count(slot)):
            self._get_change(slot, place, &start, &end)
            for other_place in range(self._change_count(other)):
                self._get_change(other, other_place, &other_start, &other_end)
                if self._has_partial_in(start, end, other_start, other_end) \
                        or self._has_partial_in(other_start, other_end, start, end):
                    return True
        return False

    cdef uint32_t _change_count(self, RequestSlot *slot) noexcept nogil:
        """How many ranges of the drive a request changes."""
        if slot.operation == OPERATION_DISCARD or slot.operation == OPERATION_WRITE_ZEROES:
            return slot.range_count
        return slot.operation == OPERATION_WRITE

    cdef void _get_change(self, RequestSlot *slot, uint32_t place, uint64_t *start, uint64_t *end) noexcept nogil:
        """One of the ranges that a request changes, as offsets in bytes."""
        cdef SectorRange *segment
        if slot.operation == OPERATION_WRITE:
            start[0] = slot.offset_bytes
            end[0] = slot.offset_bytes + slot.length_bytes
        else:
            segment = <SectorRange *>self.state.slot_ranges(<uint32_t>(slot - self.state.slots)) + slot.first_range + place
            start[0] = segment.sector * SECTOR_BYTES
            end[0] = start[0] + <uint64_t>segment.num_sectors * SECTOR_BYTES

    cdef bint _has_partial_in(self, uint64_t start, uint64_t end, uint64_t other_start,
                              uint64_t other_end) noexcept nogil:
        """Whether a block that the range begins or ends within is one that the other range is in."""
        cdef uint64_t first_block = start // self.block_size_bytes, last_block = end // self.block_size_bytes
        cdef uint64_t other_first = other_start // self.block_size_bytes
        cdef uint64_t other_last = (other_end - 1) // self.block_size_bytes
        if start == end or other_start == other_end:
            return False
        return (start % self.block_size_bytes and other_first <= first_block <= other_last) \
            or (end % self.block_size_bytes and other_first <= last_block <= other_last)

    cdef void _use_writable(self, RequestSlot *slot, Range *ranges) noexcept nogil:
        """Make the data the writable ranges, less the status byte at their end."""
        cdef Range *last
        slot.first_range = slot.readable_count
        slot.range_count = slot.writable_count
        last = ranges + slot.first_range + slot.range_count - 1
        last.length_bytes -= 1
        if last.length_bytes == 0:
            slot.range_count -= 1

    cdef bint _measure(self, RequestSlot *slot, Range *ranges) noexcept nogil:
        """Sum the data's length into the slot; False when it does not fit a used length of 32 bits."""
        cdef uint32_t index
        slot.length_bytes = 0
        for index in range(slot.range_count):
            slot.length_bytes += ranges[slot.first_range + index].length_bytes
        return slot.length_bytes < <uint64_t>0xFFFFFFFF

    cdef bint _place(self, RequestSlot *slot, Range *ranges, uint64_t sector) noexcept nogil:
        """Check the data's length and its place on the drive and set the offset."""
        cdef uint64_t capacity = self.device.capacity_sectors, num_sectors
        if not self._measure(slot, ranges) or slot.length_bytes % SECTOR_BYTES:
            return False
        num_sectors = slot.length_bytes // SECTOR_BYTES
        if num_sectors > capacity or sector > capacity - num_sectors:   # no sum that could overflow
            return False
        slot.offset_bytes = sector * SECTOR_BYTES
        return True

    cdef void _prepare_read(self, RequestSlot *slot, Range *ranges, uint64_t sector) noexcept nogil:
        self._use_writable(slot, ranges)
        if self._place(slot, ranges, sector):
            slot.operation = OPERATION_READ
            slot.charge_kind = CHARGE_READ
            slot.flags |= SLOT_BRIEF

    cdef void _prepare_write(self, RequestSlot *slot, Range *ranges, uint64_t sector) noexcept nogil:
        if self.device.is_read_only or not self._place(slot, ranges, sector):
            return
        if self.device.durable_writes:
            slot.flags |= SLOT_DURABLE
        if (slot.offset_bytes | slot.length_bytes) % self.block_size_bytes:
            slot.flags |= SLOT_PARTIAL
        elif not slot.flags & SLOT_DURABLE:
            slot.flags |= SLOT_BRIEF
        slot.flags |= SLOT_CHANGES
        slot.operation = OPERATION_WRITE
        slot.charge_kind = CHARGE_WRITE

    cdef void _prepare_get_id(self, RequestSlot *slot, Range *ranges) noexcept nogil:
        """The driver has room for 20 bytes; one that has less gets what fits (5.2.6)."""
        self._use_writable(slot, ranges)
        if self._measure(slot, ranges):
            slot.operation = OPERATION_GET_ID
        slot.length_bytes = min(slot.length_bytes, <uint64_t>DRIVE_ID_BYTES)

    cdef void _prepare_segments(self, RequestSlot *slot, Range *ranges, uint32_t request_type) noexcept nogil:
        """DISCARD and WRITE_ZEROES: copy the segments, check them, put them where the ranges were."""
        cdef SectorRange segments[MAX_SEGMENTS]
        cdef uint64_t most_sectors = MAX_DISCARD_SECTORS, written_sectors = 0
        cdef uint64_t capacity = self.device.capacity_sectors
        cdef uint32_t count, index, allowed_flags = 0
        if self.device.is_read_only or not self._measure(slot, ranges):
            return
        if slot.length_bytes == 0 or slot.length_bytes % sizeof(SectorRange) or slot.length_bytes > sizeof(segments):
            return
        count = <uint32_t>(slot.length_bytes // sizeof(SectorRange))
        if not take_bytes(self.memory, slot, ranges, segments, <uint32_t>slot.length_bytes):
            return
        if request_type == TYPE_WRITE_ZEROES:
            allowed_flags = SEGMENT_F_UNMAP
            most_sectors = MAX_WRITE_ZEROES_SECTORS
            if self.device.durable_writes:
                slot.flags |= SLOT_DURABLE
        for index in range(count):
            if segments[index].flags & ~allowed_flags:
                slot.status = STATUS_UNSUPP
                return
            if segments[index].num_sectors > most_sectors or segments[index].num_sectors > capacity \
                    or segments[index].sector > capacity - segments[index].num_sectors:
                return
            if ((segments[index].sector | segments[index].num_sectors) * SECTOR_BYTES) % self.block_size_bytes:
                slot.flags |= SLOT_PARTIAL
            if request_type == TYPE_WRITE_ZEROES and not segments[index].flags & SEGMENT_F_UNMAP:
                written_sectors += segments[index].num_sectors
        slot.flags |= SLOT_CHANGES
        slot.charge_kind = CHARGE_WRITE
        slot.length_bytes = written_sectors * SECTOR_BYTES   # what is only given back costs no bytes
        slot.readable_count = slot.writable_count = 0   # only the status byte is still to be written
        memcpy(ranges, segments, count * sizeof(SectorRange))
        slot.first_range = 0
        slot.range_count = count
        slot.operation = OPERATION_DISCARD if request_type == TYPE_DISCARD else OPERATION_WRITE_ZEROES
