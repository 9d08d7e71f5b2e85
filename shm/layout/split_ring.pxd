# The split virtqueue's layout in guest memory (virtio 1.2, 2.7), shared by the device's side
# (virtqueue.pyx) and the driver's side (driver_virtqueue.pyx). Little-endian, as is every host served.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

cdef enum:
    DESC_F_NEXT = 1
    DESC_F_WRITE = 2
    DESC_F_INDIRECT = 4
    AVAIL_F_NO_INTERRUPT = 1
    USED_F_NO_NOTIFY = 1
    MAX_QUEUE_SIZE = 32768
    USED_RING_ENTRIES = 4   # bytes before the entries: flags and idx


cdef packed struct Descriptor:
    uint64_t gpa
    uint32_t length_bytes
    uint16_t flags
    uint16_t next


cdef packed struct UsedElement:
    uint32_t head_index
    uint32_t length_bytes


cdef inline size_t desc_table_bytes(uint32_t queue_size) noexcept nogil:
    return 16 * <size_t>queue_size


cdef inline size_t avail_ring_bytes(uint32_t queue_size) noexcept nogil:
    """Flags, idx, entries and used_event."""
    return 4 + 2 * <size_t>queue_size + 2


cdef inline size_t used_ring_bytes(uint32_t queue_size) noexcept nogil:
    """Flags, idx, entries and avail_event."""
    return 4 + 8 * <size_t>queue_size + 2


cdef inline bint needs_event(uint16_t event, uint16_t new_idx, uint16_t old_idx) noexcept nogil:
    """Whether moving an index from old_idx to new_idx passes event (virtio 1.2, 2.7.7.1 and 2.7.10.1)."""
    return <uint16_t>(new_idx - event - 1) < <uint16_t>(new_idx - old_idx)
