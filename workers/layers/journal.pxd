from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ringblk.workers.layers.map cimport LayerMap

cdef enum:
    UNIT_BYTES = 512
    UNIT_WORDS = 63
    RECORD_CHANGES = 41


cdef packed struct MapUnit:
    # A piece of the map on the disk. All zeroes: nothing was ever written to it.
    uint32_t checksum         # of all that follows
    uint32_t index
    uint64_t words[UNIT_WORDS]


cdef packed struct Change:
    uint32_t word
    uint64_t bits             # which are set in that word


cdef packed struct JournalRecord:
    uint32_t checksum         # of all that follows
    uint32_t change_count
    uint64_t layer_tag        # the first bytes of the layer's id
    Change changes[RECORD_CHANGES]
    uint8_t padding[4]


cdef class LayerJournal:
    cdef readonly int fd      # of the layer's map
    cdef LayerMap map
    cdef uint64_t layer_tag
    cdef uint64_t journal_offset_bytes
    cdef uint64_t map_offset_bytes
    cdef uint64_t word_count
    cdef uint32_t slot_count
    cdef Change *changes      # what is to be saved, by word
    cdef size_t change_count
    cdef size_t change_room
    cdef JournalRecord *records   # half a journal's

    cdef int save(self, int data_fd) noexcept nogil
    cdef int _save_locked(self, int data_fd, uint64_t begun_count) noexcept nogil
    cdef int _collect(self) noexcept nogil
    cdef int _collect_page(self, uint64_t page) noexcept nogil
    cdef int _add_change(self, uint64_t word, uint64_t bits) noexcept nogil
    cdef int _write_changes(self) noexcept nogil
    cdef int _write_records(self, uint32_t record_count) noexcept nogil
    cdef int _apply(self) noexcept nogil
    cdef int _read_units(self, uint64_t first, uint64_t count, MapUnit *units) noexcept nogil
    cdef int _write(self, const void *data, size_t size_bytes, uint64_t offset_bytes, bint durable) noexcept nogil
    cdef _replay(self)
    cdef int _restore(self, uint64_t word, uint64_t bits) noexcept nogil
