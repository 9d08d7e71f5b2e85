from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.layout.slot cimport Range, RequestSlot

cdef enum BrokenReason:
    BROKEN_AVAIL_COUNT = 1   # avail.idx is more than the queue size ahead
    BROKEN_HEAD_INDEX = 2    # a head index out of range
    BROKEN_HEAD_IN_FLIGHT = 3  # a head that is already in flight
    BROKEN_NEXT_INDEX = 4    # a next field out of range, in the descriptor table
    BROKEN_LOOP = 5          # a chain that takes more of the descriptor table than there is
    BROKEN_INFLIGHT = 7      # an in-flight region that contradicts the ring
    BROKEN_MEMORY = 8        # memory that the front end shares cannot be reached any more


cdef enum ChainFlags:
    CHAIN_BAD_ADDRESS = 1    # some data or its indirect table lies outside the guest's memory
    CHAIN_BAD_ORDER = 2      # device-readable after device-writable
    CHAIN_BAD_TABLE = 4      # an indirect table that cannot be, or with more descriptors than a chain may have
    CHAIN_NO_ROOM = 8        # more ranges than there was room for


cdef struct Rings:
    # One queue's rings as mapped in this process, and its cursors. One dispatcher works on them.
    uint8_t *desc_table
    uint8_t *avail_ring
    uint8_t *used_ring
    uint32_t queue_size
    uint32_t chain_limit        # descriptors that one chain may have
    uint32_t broken             # BrokenReason; sticky
    uint16_t queue_index
    uint16_t next_avail         # the next avail entry to pop
    uint16_t next_used          # where the next used element goes
    uint16_t published_used     # used.idx as the driver sees it
    uint16_t called_used        # used.idx when a call was last considered
    bint event_idx
    # of the chain being read
    uint64_t last_writable_gpa
    uint32_t descriptors_left   # that it may still have


cdef inline uint16_t *avail_word(Rings *rings, size_t index) noexcept nogil:
    return <uint16_t *>rings.avail_ring + index


cdef inline uint16_t *used_word(Rings *rings, size_t index) noexcept nogil:
    return <uint16_t *>rings.used_ring + index


cdef class Virtqueue:
    cdef Rings rings
    cdef GuestMemory memory
    cdef uint64_t desc_uva
    cdef uint64_t avail_uva
    cdef uint64_t used_uva

cdef uint16_t ring_used_idx(Rings *rings) noexcept nogil
cdef int set_broken(Rings *rings, uint32_t reason) noexcept nogil
cdef int avail_count(Rings *rings) noexcept nogil
cdef int peek_head(Rings *rings) noexcept nogil
cdef int read_chain(Rings *rings, uint16_t head_index, GuestMemory memory, RequestSlot *slot, Range *ranges,
                    uint32_t room) noexcept nogil
cdef void push_used(Rings *rings, uint16_t head_index, uint32_t length_bytes) noexcept nogil
cdef void publish_used(Rings *rings) noexcept nogil
cdef bint needs_call(Rings *rings) noexcept nogil
cdef bint arm_kick(Rings *rings) noexcept nogil
cdef void disarm_kick(Rings *rings) noexcept nogil
