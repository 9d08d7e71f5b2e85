from libc.stdint cimport uint32_t

from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.engine.dispatcher.queue_table cimport QueueTable
from ringblk.engine.dispatcher.throttle cimport Throttle
from ringblk.shm.state.segment cimport StateSegment

cdef void unpop_waiting(StateSegment state, QueueTable table, Handover handover, Throttle throttle,
                        uint32_t queue_index) noexcept nogil
