from libc.stdint cimport int32_t, uint32_t, uint64_t

from ringblk.workers.fs.request cimport FileHandle, FolderHeader, FolderRequest, FoundInode, InodeRecord


cdef class InodeTable:
    cdef FolderHeader *header
    cdef InodeRecord *records
    cdef FolderRequest *requests
    # This process's alone, made of the records when it begins.
    cdef int32_t *buckets
    cdef int32_t *next_alike
    cdef uint32_t bucket_count
    cdef uint32_t room           # records that there are links for
    cdef int32_t first_free
    cdef uint32_t load_count     # as it was when this was made

    cdef const FileHandle *handle_of(self, uint64_t node_id) noexcept nogil
    cdef void count_found(self, uint32_t slot_index, uint32_t place, const FoundInode *found) noexcept nogil
    cdef void count_forgotten(self, uint32_t slot_index, uint32_t place, uint64_t node_id,
                              uint64_t lookup_count) noexcept nogil
    cdef void forget_all(self) noexcept nogil
    cdef void note_loaded(self) noexcept nogil
    cdef int32_t _find(self, uint64_t node_id) noexcept nogil
    cdef int32_t _add(self, const FoundInode *found) noexcept nogil
    cdef void _change(self, uint32_t slot_index, uint32_t place, int32_t record_index, uint64_t new_count) noexcept nogil
    cdef void _finish_change(self) noexcept nogil
    cdef void _free(self, int32_t record_index) noexcept nogil
    cdef void _note_forgotten(self, uint64_t node_id) noexcept nogil
    cdef void _link(self, int32_t record_index) noexcept nogil
    cdef void _rebuild(self) noexcept nogil
    cdef bint _grow(self) noexcept nogil
    cdef bint _make_room(self, uint32_t room) noexcept nogil
