from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

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
    uint32_t count            # heads taken in here, or to be, and not given back
    uint64_t next_counter


cdef inline bint is_inflight(InflightRecord *record, uint32_t head_index) noexcept nogil:
    return record.entries[head_index].inflight != 0


cdef class InflightQueue:
    cdef object view          # keeps the mapping alive
    cdef InflightRecord record
    cdef readonly dict recovered   # head -> counter, oldest first: what `recover` found

cdef void inflight_fetch(InflightRecord *record, uint32_t head_index, uint64_t counter) noexcept nogil
cdef void inflight_mark(InflightRecord *record, uint32_t head_index, uint64_t counter) noexcept nogil
cdef void inflight_link(InflightRecord *record, uint32_t head_index) noexcept nogil
cdef void inflight_clear(InflightRecord *record, uint32_t head_index) noexcept nogil
cdef void inflight_settle(InflightRecord *record, uint16_t used_idx) noexcept nogil
