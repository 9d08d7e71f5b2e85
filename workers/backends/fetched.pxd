from libc.stdint cimport uint64_t

from ringblk.workers.backends.file cimport FileBackend
from ringblk.workers.fetch.line cimport FetchLine
from ringblk.workers.layers.map cimport LayerMap


cdef class FetchedBase(FileBackend):
    cdef LayerMap fetched     # which blocks are in the file
    cdef FetchLine line
    cdef object _counts       # keeps the mapping
    cdef uint64_t *counts     # of all the drive's processes: reads, and those for which something was missing

    cdef bint _has(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil
