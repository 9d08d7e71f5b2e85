from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    BLOCK_SHIFT = 12
    MAX_REGIONS = 16384
    REGION_BYTES_OFFSET = 2048    # of the durable regions, in the first page of `changes`
    SECTOR_REGIONS = 4096         # bits of a sector of the file `regions`
    SECTOR_BYTES = 512


cdef struct ChangesHeader:
    # docs/changes.md, "changes".
    uint8_t magic[8]
    uint32_t version
    uint32_t padding
    uint8_t tracker_id[16]
    uint64_t generation           # which of the two maps is written to: its lowest bit


cdef class ChangeTracker:
    cdef readonly int regions_fd
    cdef readonly int changes_fd
    cdef readonly uint64_t size_bytes
    cdef object view              # keeps the mapping
    cdef ChangesHeader *header
    cdef uint64_t *regions        # a bit for each region that is in the file `regions` durably
    cdef uint64_t *maps[2]        # a bit for each block
    cdef uint64_t map_words
    cdef uint32_t region_shift

    cdef int begin_change(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil
    cdef void end_change(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil
    cdef int _have_region(self, uint64_t region) noexcept nogil
    cdef int _write_region(self, uint64_t region) noexcept nogil
    cdef void _set(self, uint64_t first, uint64_t end) noexcept nogil
