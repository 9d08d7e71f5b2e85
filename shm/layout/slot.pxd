# Request slots: the one copy of a descriptor chain from which a request is carried out.
#
# The dispatcher reads a chain once, checks the copy and resolves it to ranges of guest memory here;
# whoever executes the request works from the slot and never looks at a descriptor. So nothing can
# change after its check, and a request can be done again from its slot whatever became of the ring.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

cdef enum SlotState:
    SLOT_FREE = 0
    SLOT_PREPARED = 1   # filled and in flight, with no worker
    SLOT_HANDED = 2     # given to worker_index; in its submit ring if ring_position is before the ring's tail

cdef enum:
    NO_WORKER = 0xFFFF         # nobody, or the dispatcher while it carries the request out
    DISPATCHER_PENDING = 0xFFFE   # the dispatcher has begun it and waits for somebody else: its io_uring, or whoever it is
    SLOT_ALIGN_BYTES = 128


cdef struct Range:
    # A piece of guest memory: where it begins in its region's mapping, and how long it is.
    uint64_t offset_bytes
    uint32_t length_bytes
    uint32_t region_index


cdef struct RequestSlot:
    # Identity and ownership: written by the dispatcher alone.
    uint32_t state
    uint16_t queue_index
    uint16_t head_index
    uint64_t counter         # the head's in-flight counter; which request this slot belongs to
    uint32_t memory_epoch    # the region table that the ranges were resolved with
    uint32_t ring_position   # of the submit ring entry
    uint16_t worker_index
    uint16_t death_count     # workers that died holding it
    # What to do: written by the device kind's parser before the slot is handed over.
    uint32_t operation
    uint32_t flags
    uint16_t first_range
    uint16_t range_count     # of the data, from first_range on
    uint64_t offset_bytes
    uint64_t length_bytes    # of the data, or of the zeroes to be written
    uint32_t long_list       # the long list of ranges that it has in place of its own, counted from 1; 0: none
    uint32_t reserved
    # second cache line
    uint16_t readable_count  # of the whole chain; readable ranges stand before writable ones. 0 and 0: overwritten
    uint16_t writable_count
    uint16_t charge_kind     # which token buckets it draws from (shm/rates/limit.pxd), with length_bytes
    uint16_t has_last_byte   # whether there is a last writable byte, and in the guest's memory
    Range last_byte          # of all writable ones, also where the chain is bad: a device kind may answer there
    # Outcome: written by whoever executes it, before the slot's index enters a done ring.
    uint32_t used_length_bytes
    uint32_t status
    uint64_t popped_ns
    uint64_t throttled_ns    # how long it waited for tokens
    uint64_t started_ns
    uint64_t done_ns
