from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ringblk.shm.layout.split_ring cimport Descriptor
from ringblk.shm.queues.chain cimport ChainCopy
from ringblk.shm.queues.split.inflight cimport InflightRecord, SplitInflight
from ringblk.shm.queues.virtqueue cimport Virtqueue

cdef enum:
    # Offsets in 16-bit words from the start of either ring, whose first word are its flags.
    IDX_WORD = 1
    ENTRIES_WORD = 2
    ELEMENT_WORDS = 4            # of the used ring


cdef class SplitVirtqueue(Virtqueue):
    cdef Descriptor *desc_table
    cdef uint16_t *avail_ring
    cdef uint16_t *used_ring
    cdef InflightRecord *record          # of `inflight`
    cdef readonly uint16_t next_avail    # the next avail entry to pop
    cdef readonly uint16_t next_used     # where the next used element goes
    cdef uint16_t published_used         # used.idx as the driver sees it
    cdef uint16_t called_used            # used.idx when a call was last considered
    cdef bint event_idx
    cdef SplitInflight inflight
    cdef uint64_t desc_uva
    cdef uint64_t avail_uva
    cdef uint64_t used_uva

    cdef void _log_published(self) noexcept nogil
    cdef int _follow(self, uint16_t head_index, ChainCopy *copy) noexcept nogil
