from libc.stdint cimport uint16_t, uint32_t, uint64_t

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


cdef class Virtqueue:
    cdef GuestMemory memory
    cdef readonly uint16_t queue_index
    cdef readonly uint32_t queue_size
    cdef uint32_t chain_limit           # descriptors that one chain may have
    cdef readonly uint32_t broken       # BrokenReason, 0 while it works; sticky
    cdef readonly dict recovered        # head -> counter, oldest first: what `resume` found in flight
    cdef bint is_logged                 # whether the driver's front end wants to know of writes to the ring,
    cdef uint64_t log_gpa               # and where they are for it (VHOST_VRING_F_LOG, log_guest_addr)
    cdef uint64_t next_counter          # of the next head to be taken, as far as the in-flight record goes

    cdef int mark_broken(self, uint32_t reason) noexcept nogil
    # What a layout has to do.
    cdef int available_count(self) noexcept nogil
    cdef int peek(self) noexcept nogil
    cdef int read(self, uint16_t head_index, RequestSlot *slot, Range *ranges, uint32_t room) noexcept nogil
    cdef void take(self, uint16_t head_index, uint64_t counter) noexcept nogil
    cdef void unpop(self, uint16_t head_index) noexcept nogil
    cdef bint is_inflight(self, uint16_t head_index) noexcept nogil
    cdef bint is_inflight_as(self, uint16_t head_index, uint64_t counter) noexcept nogil
    cdef void adopt(self, uint16_t head_index, uint64_t counter) noexcept nogil
    cdef uint32_t count_inflight(self) noexcept nogil
    cdef void give_back(self, uint16_t head_index, uint32_t length_bytes) noexcept nogil
    cdef void publish(self) noexcept nogil
    cdef bint needs_call(self) noexcept nogil
    cdef void forget(self, uint16_t head_index) noexcept nogil
    cdef void settle(self) noexcept nogil
    cdef void log_ring(self) noexcept nogil
    cdef bint arm(self) noexcept nogil
    cdef void disarm(self) noexcept nogil
