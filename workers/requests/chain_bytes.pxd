# The first bytes of what a request has in guest memory, wherever its descriptors are cut (virtio 1.2, 2.6.4).

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy

from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.memory.guest_memory cimport GuestMemory


cdef inline bint take_bytes(GuestMemory memory, RequestSlot *slot, Range *ranges, void *target,
                            uint32_t size_bytes) noexcept nogil:
    """Copy the first bytes of the slot's current ranges out and cut them off; False when there are fewer.

    Guest memory is read here once; what is checked and used is the copy.
    """
    cdef uint8_t *place = <uint8_t *>target
    cdef Range *piece
    cdef uint32_t part_bytes
    while size_bytes:
        if slot.range_count == 0:
            return False
        piece = ranges + slot.first_range
        part_bytes = min(size_bytes, piece.length_bytes)
        memcpy(place, memory.pointer(piece), part_bytes)
        place += part_bytes
        size_bytes -= part_bytes
        piece.offset_bytes += part_bytes
        piece.length_bytes -= part_bytes
        if piece.length_bytes == 0:
            slot.first_range += 1
            slot.range_count -= 1
    return True
