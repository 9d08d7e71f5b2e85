from libc.stdint cimport uint64_t

from ringblk.workers.layers.index cimport BlockIndex
from ringblk.workers.layers.journal cimport LayerJournal
from ringblk.workers.layers.map cimport LayerMap
from ringblk.workers.layers.sealed_map cimport SealedMap

cdef enum BlockPlace:
    # Where a block is; above 0 it is the number of a sealed layer, below that a negative errno.
    IN_BASE = 0
    IN_TOP = 65536
    NOWHERE = 65537           # it reads as zeroes


cdef class LayerStack:
    cdef LayerMap top
    cdef LayerJournal journal
    cdef LayerMap near_live   # of a layer that is not settled
    cdef LayerJournal near_journal
    cdef SealedMap near_settled
    cdef int near_number      # 0: there is no layer below the top
    cdef uint64_t near_blocks
    cdef int near_fd          # its data
    cdef BlockIndex index     # of the layers below that one; None: there are none
    cdef uint64_t base_blocks # which of the base's are seen

    cdef uint64_t run_length(self, uint64_t first, uint64_t end, int *place) noexcept nogil
    cdef uint64_t run_below(self, uint64_t first, uint64_t end, int *place) noexcept nogil
    cdef int save(self, int data_fd) noexcept nogil
    cdef bint has_unsaved(self) noexcept nogil
