# A descriptor chain, copied buffer by buffer into the ranges of a slot. A layout finds the descriptors; what they
# name is resolved here.

from libc.errno cimport E2BIG
from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.queues.virtqueue cimport CHAIN_BAD_ADDRESS, CHAIN_BAD_ORDER, CHAIN_BAD_TABLE, CHAIN_NO_ROOM


cdef struct ChainCopy:
    RequestSlot *slot
    Range *ranges
    uint32_t room
    uint32_t descriptors_left   # that the chain may still have
    uint64_t last_writable_gpa


cdef inline void begin_copy(ChainCopy *copy, RequestSlot *slot, Range *ranges, uint32_t room,
                            uint32_t chain_limit) noexcept nogil:
    """Begin to read a chain into `ranges`."""
    slot.readable_count = 0
    slot.writable_count = 0
    slot.has_last_byte = False
    copy.slot = slot
    copy.ranges = ranges
    copy.room = room
    copy.descriptors_left = chain_limit


cdef inline int add_buffer(ChainCopy *copy, GuestMemory memory, uint64_t gpa, uint32_t length_bytes, bint is_writable,
                           int flags) noexcept nogil:
    """Resolve a buffer behind the ranges that are there; `flags`, with what makes the request bad."""
    cdef RequestSlot *slot = copy.slot
    cdef uint32_t used_room
    cdef int count
    if is_writable and length_bytes:
        copy.last_writable_gpa = gpa + length_bytes - 1
        slot.has_last_byte = True
    if flags:   # of a bad chain nothing is used but its last byte
        return flags
    if copy.descriptors_left == 0:
        return CHAIN_BAD_TABLE   # the descriptor table alone has no more than a chain may have
    copy.descriptors_left -= 1
    used_room = slot.readable_count + slot.writable_count
    count = memory.translate(gpa, length_bytes, copy.ranges + used_room, <int>(copy.room - used_room))
    if count < 0:
        return CHAIN_NO_ROOM if count == -E2BIG else CHAIN_BAD_ADDRESS
    if is_writable:
        slot.writable_count += count
    elif slot.writable_count:
        return CHAIN_BAD_ORDER
    else:
        slot.readable_count += count
    return 0


cdef inline void end_copy(ChainCopy *copy, GuestMemory memory) noexcept nogil:
    """Find the last writable byte, if it is in the guest's memory."""
    cdef RequestSlot *slot = copy.slot
    if slot.has_last_byte:
        slot.has_last_byte = memory.translate(copy.last_writable_gpa, 1, &slot.last_byte, 1) == 1
