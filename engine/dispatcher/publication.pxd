from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.engine.dispatcher.queue_table cimport QueueTable
from ringblk.engine.dispatcher.request_recorder cimport RequestRecorder
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.state.segment cimport StateSegment

cdef void publish_batch(StateSegment state, GuestMemory memory, QueueTable table, Handover handover,
                        RequestRecorder recorder) noexcept nogil
