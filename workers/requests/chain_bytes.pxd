# The first bytes of what a request has in guest memory, wherever its descriptors are cut (virtio 1.2, 2.6.4).

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy

from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.memory.guest_memory cimport GuestMemory

cdef extern from * nogil:
    """
    /* Keep the compiler from reading guest memory again for what was copied out of it: the guest may have changed it. */
    static inline void ringblk_copied(void) { __asm__ volatile("" ::: "memory"); }
    """
    void ringblk_copied()


cdef inline bint take_bytes(GuestMemory memory, RequestSlot *slot, Range *ranges, void *target,
                            uint32_t size_bytes) noexcept nogil:
    """Copy the first bytes of the slot's current ranges out and cut them off; False when there are fewer.

    Guest memory is read here once; what is checked and used is the copy.
    """
    cdef uint8_t *place = <uint8_t *>target
    cdef Range *piece = ranges + slot.first_range
    cdef uint32_t part_bytes
    if slot.range_count and piece.length_bytes >= size_bytes:  # nearly always: a header is no call of memcpy then
        memcpy(place, memory.pointer(piece), size_bytes)
        ringblk_copied()
        piece.offset_bytes += size_bytes
        piece.length_bytes -= size_bytes
        if piece.length_bytes == 0:
            slot.first_range += 1
            slot.range_count -= 1
        return True
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
