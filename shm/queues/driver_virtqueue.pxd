from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from ringblk.shm.layout.split_ring cimport Descriptor, UsedElement


cdef struct Piece:
    # One buffer of a chain: for the device to read, or to write.
    uint64_t gpa
    uint32_t length_bytes
    bint writable


cdef class DriverVirtqueue:
    cdef Py_buffer memory_view
    cdef bint memory_held
    cdef uint8_t *memory_base
    cdef readonly uint64_t gpa              # of the memory's first byte
    cdef readonly uint64_t memory_bytes
    cdef readonly uint32_t queue_size
    cdef readonly bint event_idx
    cdef readonly bint broken
    cdef readonly uint64_t desc_gpa, avail_gpa, used_gpa
    cdef Descriptor *desc_table
    cdef uint16_t *avail_ring               # flags, idx, entries, used_event
    cdef uint16_t *avail_entries
    cdef uint16_t *used_event
    cdef uint16_t *used_ring                # flags, idx, then elements, avail_event
    # Private to the driver, so that nothing the device writes can lead it astray.
    cdef uint16_t *next_desc                # links of the free list and of the chains in flight
    cdef uint16_t *desc_count               # by head: descriptors of the chain in flight, 0 when there is none
    cdef uint64_t *writable_bytes           # by head: the most that the device can have written
    cdef readonly uint16_t next_avail       # entries written to the avail ring, published or not
    cdef readonly uint16_t published_avail  # the avail ring's idx
    cdef readonly uint16_t next_used
    cdef uint16_t seen_used                 # used.idx as last loaded
    cdef uint32_t unkicked_count            # entries published since needs_kick was last asked
    cdef uint16_t free_head
    cdef readonly uint32_t free_count       # descriptors
    cdef readonly uint32_t inflight_count   # chains

    cdef void _lay_out(self, uint64_t offset)
    cdef Descriptor *_table_at(self, uint64_t table_gpa, uint32_t piece_count) except NULL
    cdef int add_direct(self, const Piece *pieces, uint32_t piece_count) noexcept nogil
    cdef int add_indirect(self, const Piece *pieces, uint32_t piece_count, Descriptor *table,
                          uint64_t table_gpa) noexcept nogil
    cdef uint32_t publish_chains(self) noexcept nogil
    cdef bint check_kick(self) noexcept nogil
    cdef int next_used_element(self, UsedElement *element) noexcept nogil
    cdef bint arm_call(self, uint32_t count) noexcept nogil
    cdef void disarm_call(self) noexcept nogil
    cdef void offer_head(self, uint16_t head_index) noexcept nogil
    cdef void release_chain(self, uint16_t head_index) noexcept nogil
    cdef int mark_broken(self) noexcept nogil
    cdef bint has_used(self) noexcept nogil
