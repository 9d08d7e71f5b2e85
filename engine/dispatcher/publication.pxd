from ringblk.engine.handover cimport Handover
from ringblk.engine.queue_table cimport QueueTable
from ringblk.engine.request_recorder cimport RequestRecorder
from ringblk.shm.state cimport StateSegment

cdef void publish_batch(StateSegment state, QueueTable table, Handover handover, RequestRecorder recorder) noexcept nogil
