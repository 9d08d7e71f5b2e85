from libc.stdint cimport uint32_t

from ringblk.engine.handover cimport Handover
from ringblk.engine.queue_table cimport QueueTable
from ringblk.engine.throttle cimport Throttle
from ringblk.shm.state cimport StateSegment

cdef void give_back(StateSegment state, QueueTable table, Handover handover, Throttle throttle,
                    uint32_t queue_index) noexcept nogil
