from libc.stdint cimport int64_t, uint32_t, uint64_t

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.request cimport FolderRequest, FoundInode
from ringblk.workers.fs.share cimport Share
from ringblk.workers.fs.wire cimport fuse_attr, fuse_entry_out


cdef class PythonShare:
    cdef Share share
    cdef object file_system
    cdef object failures

    cdef int report(self, str method_name, error) noexcept
    cdef object look_up(self, uint64_t parent, str name)
    cdef int give_done(self, RequestSlot *slot, FolderRequest *request, result) except? -1
    cdef int give_attributes(self, RequestSlot *slot, FolderRequest *request, attributes) except? -1
    cdef int give_entry(self, RequestSlot *slot, FolderRequest *request, attributes) except? -1
    cdef int fill_entry(self, attributes, FoundInode *found, fuse_entry_out *entry) except -1
    cdef int give_bytes(self, RequestSlot *slot, FolderRequest *request, data, uint64_t most_bytes) except? -1
    cdef int give_value(self, RequestSlot *slot, FolderRequest *request, bytes value) except? -1
    cdef bytes data_of(self, RequestSlot *slot)


cdef int number_of(error) except -1
cdef int refuse(result, str wanted) except -1
cdef object checked_attributes(found)
cdef int64_t checked_count(result, uint64_t most) except -1
cdef str name_of(const FolderRequest *request)
cdef str other_name_of(const FolderRequest *request)
cdef object caller_of(const FolderRequest *request)
