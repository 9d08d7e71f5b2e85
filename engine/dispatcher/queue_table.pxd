from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.platform.wait_set cimport WaitFor, WaitSet
from ringblk.shm.state.segment cimport QUEUE_LIMIT, StateSegment

cdef struct ServedQueue:
    PyObject *virtqueue         # a Virtqueue, which `QueueTable.owners` keeps alive; NULL: not served
    int kick_fd                 # -1: the queue is polled
    int call_fd                 # -1: the driver is never called
    int err_fd                  # -1: nobody hears of errors
    bint call_may_block         # its call eventfd is not set to O_NONBLOCK, or did block
    int unheard                 # 1: a call found the eventfd full; 2: and somebody was told
    bint is_enabled
    bint is_draining            # it is being stopped


cdef class QueueTable:
    cdef StateSegment state
    cdef ServedQueue queues[QUEUE_LIMIT]
    cdef uint32_t active[QUEUE_LIMIT]      # indexes of the queues that are popped from
    cdef readonly bint is_paused
    cdef uint32_t active_count
    cdef uint32_t polled_count             # active queues without a kick fd
    cdef list owners                       # by queue: its Virtqueue, or None
    cdef WaitSet waited
    cdef int channel_fd                    # -1: it is not watched
    cdef uint32_t round_count              # of `has_control`
    cdef bint newly_unheard                # some queue is, and nobody was told yet

    cdef int _watch(self, int fd, WaitFor what, uint64_t tag) except -1
    cdef bint has_control(self) noexcept nogil
    cdef void note_left_alone(self) noexcept nogil
    cdef void list_active(self) noexcept
    cdef void call_if_needed(self, uint32_t queue_index) noexcept nogil
    cdef void signal_call(self, uint32_t queue_index) noexcept nogil
    cdef void wait(self, uint64_t timeout_ns) noexcept nogil
