# The state segment: everything the processes of one engine share, laid out in one place.
#
#   StateHeader | QueueState[queue_limit] | WorkerState[worker_limit] | RequestSlot[slot_count]
#   | submit and done entries [worker_limit][2][slot_count] | RateLimitState
#   | OperationStatistics[operation_limit] | Range[slot_count][ranges_per_slot]
#
# Every field has one writer, named beside it. Cursors and flags that different processes write stand on
# cache lines of their own.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from ringblk.shm.histogram cimport HistogramState
from ringblk.shm.slot cimport Range, RequestSlot

cdef enum:
    STATE_LAYOUT_VERSION = 4
    QUEUE_LIMIT = 64
    WORKER_LIMIT = 64
    OPERATION_LIMIT = 8     # values of RequestSlot.operation
    DRIVE_NAME_BYTES = 256
    RANGE_SLACK = 64        # pieces beyond one a descriptor: a buffer may straddle regions


cdef struct StateHeader:
    uint8_t segment_header[64]      # shm/segment.py
    # sizes, written once at creation
    uint32_t slot_count
    uint32_t ranges_per_slot
    uint32_t reserved_sizes[14]
    # the device as it is now, written by the supervisor
    uint64_t capacity_sectors
    uint32_t is_read_only
    uint32_t durable_writes         # the driver turned the write-back cache off
    uint32_t is_flush_offered
    uint32_t is_discard_offered
    uint32_t control_pending        # the supervisor has sent the dispatcher a message
    uint32_t skips_flush            # a FLUSH is done when it is asked for (cache=unsafe)
    # shared memory that could not be reached (memory_guard.pyx): set by who found it so, cleared by the dispatcher
    uint64_t lost_regions           # a bit for each region index
    uint64_t lost_inflight          # 1: the in-flight region
    uint32_t reserved_device[4]
    # wake-up of the dispatcher: it sets the flag, whoever clears it writes its eventfd
    uint32_t dispatcher_sleeping
    uint32_t reserved_sleeping[15]
    # who this engine is, for whoever reads the segment; written by the supervisor
    uint64_t started_ns
    uint32_t supervisor_pid
    uint32_t dispatcher_pid         # 0: none now
    uint32_t dispatcher_restart_count
    uint32_t queue_count
    uint32_t is_paused
    uint64_t image_device           # the image's device and inode number; 0 and 0: there is none
    uint64_t image_inode
    uint32_t reserved_engine[4]
    char drive_name[DRIVE_NAME_BYTES]   # the image's path or the backend's name, UTF-8, padded with zeroes


cdef struct QueueState:
    # written by the dispatcher
    uint32_t is_broken              # why (virtqueue.pxd), sticky until reset; 0: it works
    uint32_t reserved
    uint64_t kick_count
    uint64_t call_count
    uint64_t suppressed_call_count
    uint64_t popped_count
    uint64_t used_count
    uint64_t reserved_counters[2]


cdef struct WorkerState:
    # submit ring: the dispatcher produces, the worker consumes
    uint32_t submit_tail            # dispatcher
    uint32_t reserved_0[15]
    uint32_t submit_head            # worker; the dispatcher moves it only while no worker runs
    uint32_t reserved_1[15]
    # done ring: the worker produces, the dispatcher consumes
    uint32_t done_tail              # worker
    uint32_t reserved_2[15]
    uint32_t done_head              # dispatcher
    uint32_t reserved_3[15]
    uint32_t sleeping               # the worker sets it, whoever clears it writes the worker's eventfd
    uint32_t control_pending        # the supervisor has sent the worker a message
    uint32_t reserved_4[14]
    uint64_t request_count          # worker, from here on
    uint64_t busy_ns
    uint64_t reserved_5[6]
    uint32_t pid                    # supervisor, from here on; 0: no worker has this index now
    uint32_t restart_count
    uint32_t reserved_6[14]


cdef struct OperationStatistics:
    # Of one kind of request, counted when it completes. Written by the dispatcher with relaxed stores.
    uint64_t request_count
    uint64_t byte_count             # of requests that succeeded
    uint64_t error_count
    uint64_t throttled_count        # requests that waited for tokens
    uint64_t throttled_ns
    uint64_t reserved[3]
    HistogramState queue_wait       # popped until started, with the wait for tokens
    HistogramState service          # started until done


cdef class StateSegment:
    cdef object segment
    cdef object view              # keeps the mapping
    cdef StateHeader *header
    cdef QueueState *queues
    cdef WorkerState *workers
    cdef RequestSlot *slots
    cdef Range *ranges
    cdef uint32_t *ring_entries
    cdef OperationStatistics *operations
    cdef readonly uint32_t slot_count
    cdef readonly uint32_t ranges_per_slot
    cdef size_t rate_limit_offset

    cdef inline Range *slot_ranges(self, uint32_t slot_index) noexcept nogil:
        return self.ranges + <size_t>slot_index * self.ranges_per_slot

    cdef inline uint32_t *submit_entries(self, uint32_t worker_index) noexcept nogil:
        return self.ring_entries + <size_t>(2 * worker_index) * self.slot_count

    cdef inline uint32_t *done_entries(self, uint32_t worker_index) noexcept nogil:
        return self.ring_entries + <size_t>(2 * worker_index + 1) * self.slot_count
