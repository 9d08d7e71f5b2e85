# The in-flight record of a split virtqueue in shared memory, and the steps in which it changes (inflight.pyx says
# in which order).

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from ringblk.shm.sync.atomic cimport store_release_16, store_release_8
from ringblk.shm.sync.crash_point cimport crash_point

cdef enum:
    INFLIGHT_VERSION = 1


cdef struct InflightHeader:
    uint64_t features
    uint16_t version          # 0: never initialised
    uint16_t desc_num
    uint16_t last_batch_head
    uint16_t used_idx


cdef struct InflightEntry:
    uint8_t inflight
    uint8_t padding[5]
    uint16_t next
    uint64_t counter


cdef struct InflightRecord:
    # One queue's record as mapped in this process.
    InflightHeader *header
    InflightEntry *entries
    uint32_t queue_size
    uint32_t count            # heads fetched or adopted by this process, and not cleared
    uint64_t next_counter


cdef class SplitInflight:
    cdef object view          # keeps the mapping alive
    cdef InflightRecord record
    cdef readonly dict recovered   # head -> counter, oldest first: what `recover` found


cdef inline bint inflight_is_marked(const InflightRecord *record, uint32_t head_index) noexcept nogil:
    """Whether the record says in flight of a head. The front end can write it."""
    return record.entries[head_index].inflight != 0


cdef inline void inflight_mark(InflightRecord *record, uint32_t head_index, uint64_t counter) noexcept nogil:
    """Mark a head in flight."""
    record.entries[head_index].counter = counter
    crash_point("inflight: counter written")
    # Release: the counter before the flag; pairs with `recover` in a later process.
    store_release_8(&record.entries[head_index].inflight, 1)
    crash_point("inflight: flag set")


cdef inline void inflight_link(InflightRecord *record, uint32_t head_index) noexcept nogil:
    """Put a head into the batch whose used.idx is moved next."""
    record.entries[head_index].next = record.header.last_batch_head
    crash_point("inflight: next written")
    store_release_16(&record.header.last_batch_head, <uint16_t>head_index)
    crash_point("inflight: batch linked")


cdef inline void inflight_clear(InflightRecord *record, uint32_t head_index) noexcept nogil:
    """Clear a head whose used element is published."""
    store_release_8(&record.entries[head_index].inflight, 0)
    crash_point("inflight: flag cleared")
    record.count -= 1


cdef inline void inflight_settle(InflightRecord *record, uint16_t used_idx) noexcept nogil:
    """End a batch: the record agrees with the ring again."""
    store_release_16(&record.header.used_idx, used_idx)
    crash_point("inflight: settled")
