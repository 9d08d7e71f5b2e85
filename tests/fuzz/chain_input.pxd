from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

cdef class ChainInput:
    cdef bytes data
    cdef size_t place
    cdef uint64_t table_gpas[4]
    cdef uint16_t offered_count
    cdef uint8_t *ram              # the whole memfd; regions show parts of it
    cdef bytearray record_pokes
    cdef readonly int fd
    cdef readonly list regions     # (region index, MemoryRegion)
    cdef readonly list removed     # region indexes
    cdef readonly bint is_read_only, durable_writes, is_flush_offered, is_discard_offered, skips_flush
    cdef readonly bint is_failing, event_idx
    cdef readonly uint32_t queue_size
    cdef readonly uint16_t base
    cdef readonly object desc_uva, avail_uva, used_uva

    cdef uint64_t number(self, int size_bytes) noexcept
    cdef uint64_t gpa(self)
    cdef uint32_t length(self)
    cdef uint64_t sector(self)
    cdef int write(self, uint64_t gpa, bytes data) except -1
    cdef int write_ring(self, size_t offset_bytes, bytes data) except -1
