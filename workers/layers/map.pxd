from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    BLOCK_SHIFT = 12
    BLOCK_BYTES = 4096
    WORD_SHIFT = 5            # a word of the map has 32 blocks, two bits each
    PAGE_SHIFT = 9            # a page of it has 512 words
    PAGE_BYTES = 4096

cdef enum MapState:
    # Bits are only ever set, so a state goes from absent to zero, from either to present, and never back.
    BLOCK_ABSENT = 0          # reads as the base
    BLOCK_ZERO = 1            # reads as zeroes, whatever the data file holds there
    BLOCK_PRESENT = 3         # is in the data file


cdef struct LiveHeader:
    # docs/layers.md, "live". What is below the first line is written by whoever holds the flush lock.
    uint8_t magic[8]
    uint32_t version
    uint32_t is_complete      # written last of all
    uint8_t boot_id[16]
    uint8_t layer_id[16]
    uint64_t size_bytes

    uint64_t begun_count      # flushes that were begun
    uint64_t done_begun_count # what that was of the last that has ended well
    uint32_t journal_slot     # where the next record goes
    uint32_t is_broken        # nobody knows what of the last flush is on the disk
    uint32_t is_map_unsynced  # the map was written to without a record of it
    uint32_t is_settled       # the layer is sealed, and all of it is on the disk


cdef class LayerMap:
    cdef readonly uint64_t block_count
    cdef readonly int fd
    cdef readonly uint64_t page_count
    cdef object view          # keeps the mapping
    cdef LiveHeader *header
    cdef uint64_t *touched    # a bit for each page: it has memory and may hold something
    cdef uint64_t *unsaved    # a bit for each page: it has changed since it was last taken into a flush
    cdef uint64_t *taken      # a bit for each page: a flush has it
    cdef uint64_t *words
    cdef uint64_t bitmap_words
    cdef uint64_t words_offset_bytes

    cdef int state_of(self, uint64_t block) noexcept nogil
    cdef uint64_t run_length(self, uint64_t first, uint64_t end, int *state) noexcept nogil
    cdef bint is_all(self, uint64_t first, uint64_t end, MapState state) noexcept nogil
    cdef int add(self, uint64_t first, uint64_t end, MapState state) noexcept nogil
    cdef void _note_page(self, uint64_t page) noexcept nogil
    cdef int _touch(self, uint64_t page) noexcept nogil
    cdef bint has_unsaved(self) noexcept nogil
    cdef bint is_unsaved(self, uint64_t first, uint64_t end) noexcept nogil
    cdef void note_unsaved(self) noexcept nogil
    cdef void take_unsaved(self) noexcept nogil
    cdef void forget_taken(self) noexcept nogil
