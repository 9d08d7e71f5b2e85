from libc.stdint cimport uint16_t, uint64_t

cdef enum:
    INDEX_NOTHING = 0         # no layer has the block
    INDEX_ZEROES = 65535      # it reads as zeroes; else the number of the layer that has it
    INDEX_PAGE_SHIFT = 11     # blocks of a page of the index


cdef class BlockIndex:
    cdef readonly int fd
    cdef readonly uint64_t block_count
    cdef uint64_t page_count
    cdef object view          # keeps the mapping
    cdef uint64_t *touched    # a bit for each page: it may hold something
    cdef uint16_t *entries

    cdef uint64_t run_length(self, uint64_t first, uint64_t end, int *number) noexcept nogil
    cdef void _put(self, uint64_t first, uint64_t end, uint16_t entry) noexcept nogil
