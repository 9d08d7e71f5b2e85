# The state segment: everything the processes of one engine share, laid out in one place.
#
#   StateHeader | RateLimitState | QueueState[queue_limit]
#   | WorkerState[worker_limit] | submit and done entries [worker_limit][2][slot_count]
#   | RequestSlot[slot_count] | OperationStatistics[operation_count]
#   | Range[slot_count][ranges_per_slot] | Range[long_list_count][LONG_RANGES]
#
# There is room for all of it, and memory for the first line. The others get theirs from the supervisor before they
# are touched: a worker's part when it starts for the first time (`open_worker`), the rest when a front end starts a
# queue (`open_slots`) until it has gone (`close_slots`). What has no memory yet reads as zeroes, and is not to be
# touched all the same: where the file system is full, that is a SIGBUS.
#
# Every field has one writer, named beside it. Cursors and flags that different processes write stand on
# cache lines of their own.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from ringblk.shm.sync.atomic cimport load_acquire_32, set_bits_64
from ringblk.shm.layout.histogram cimport HistogramState
from ringblk.shm.layout.region_set cimport REGION_WORDS, RegionSet, add_region, has_region
from ringblk.shm.layout.slot cimport SLOT_FREE, Range, RequestSlot

cdef enum:
    STATE_LAYOUT_VERSION = 12
    QUEUE_LIMIT = 64
    WORKER_LIMIT = 64
    OPERATION_LIMIT = 64    # operations that a device kind may have
    OPERATION_NAME_BYTES = 24
    KIND_NAME_BYTES = 16
    KIND_STATE_BYTES = 64
    DRIVE_NAME_BYTES = 72
    ENGINE_NAME_BYTES = 256
    STORAGE_NAME_BYTES = 256
    RANGE_SLACK = 64        # pieces beyond one a descriptor: a buffer may straddle regions
    CHAIN_LIMIT = 1024      # descriptors that any chain may have, whatever the queue size: drivers go by QEMU's limit
    LONG_RANGES = 1536      # of a chain that has too many for its slot
    LONG_LIST_LIMIT = 16    # such chains at once; more wait in their rings


cdef struct StateHeader:
    uint8_t segment_header[64]      # shm/segments/segment.py; its subject is the image's device and inode number, or zeroes
    # sizes, written once at creation
    uint32_t slot_count
    uint32_t ranges_per_slot
    uint32_t operation_count        # values of RequestSlot.operation
    uint32_t reserved_sizes[9]
    char kind_name[KIND_NAME_BYTES] # the device kind's (engine/devices/kinds.py), padded with zeroes
    # the device as it is now, in a layout of its kind; written by the supervisor
    uint8_t kind_state[KIND_STATE_BYTES]
    uint32_t control_pending        # the supervisor has sent the dispatcher a message
    uint32_t reserved_control
    # shared memory that could not be reached (shm/memory/guard.pyx): set by who found it so, cleared by the dispatcher
    uint64_t lost_words             # which words of lost_regions are not zero
    uint64_t lost_parts             # which others (SharedPart in shm/memory/guard.pxd)
    uint32_t reserved_lost[10]
    RegionSet lost_regions
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
    uint32_t is_connected           # a front end is served
    uint32_t worker_limit           # workers that there may be
    uint32_t open_worker_count      # workers below this index have memory
    uint32_t are_slots_open         # slots, statistics and ranges have
    uint32_t reserved_engine[4]
    char drive_name[DRIVE_NAME_BYTES]   # as its engine knows it, padded with zeroes; empty where that has one without a name
    char engine_name[ENGINE_NAME_BYTES] # the same in the engine that comes after it (engine/drives/engine_name.py)
    char storage_name[STORAGE_NAME_BYTES]   # the image's path or the backend's name, UTF-8, padded with zeroes
    # written once at creation
    char operation_names[OPERATION_LIMIT][OPERATION_NAME_BYTES]   # padded with zeroes


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
    HistogramState queue_wait       # popped until started, with the wait for tokens
    HistogramState service          # started until done


cdef inline void note_lost_region(StateHeader *header, uint32_t region_index) noexcept nogil:
    """Say that a region's memory cannot be reached."""
    set_bits_64(&header.lost_regions.words[region_index >> 6], (<uint64_t>1) << (region_index & 63))
    # After the bit itself: who clears the word's bit looks at the word once more (forget_lost_regions).
    set_bits_64(&header.lost_words, (<uint64_t>1) << (region_index >> 6))

cdef void forget_lost_regions(StateHeader *header, uint32_t word, uint64_t mask) noexcept nogil


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
    cdef readonly uint32_t long_list_count
    cdef readonly uint32_t operation_count
    cdef Range *long_lists
    cdef size_t rate_limit_offset

    cdef size_t _offset(self, const void *place) noexcept
    cdef _allocate(self, const void *place, size_t size_bytes)

    cdef inline uint32_t open_slot_count(self) noexcept nogil:
        """How many slots have memory: all, or none while there is no queue."""
        return self.slot_count if load_acquire_32(&self.header.are_slots_open) else 0

    cdef inline Range *own_ranges(self, uint32_t slot_index) noexcept nogil:
        return self.ranges + <size_t>slot_index * self.ranges_per_slot

    cdef inline Range *long_ranges(self, uint32_t long_list) noexcept nogil:
        """The list of this number, counted from 1."""
        return self.long_lists + <size_t>(long_list - 1) * LONG_RANGES

    cdef inline Range *slot_ranges(self, uint32_t slot_index) noexcept nogil:
        """Where the slot's chain has its ranges."""
        cdef uint32_t long_list = self.slots[slot_index].long_list
        return self.long_ranges(long_list) if long_list else self.own_ranges(slot_index)

    cdef inline bint lies_in(self, uint32_t slot_index, const RegionSet *regions) noexcept nogil:
        """Whether the slot's request uses one of these memory regions."""
        cdef RequestSlot *slot = &self.slots[slot_index]
        cdef Range *ranges = self.slot_ranges(slot_index)
        cdef uint32_t index
        for index in range(<uint32_t>slot.readable_count + slot.writable_count):
            if has_region(regions, ranges[index].region_index):
                return True
        return slot.has_last_byte and has_region(regions, slot.last_byte.region_index)

    cdef inline void add_used_regions(self, RegionSet *regions) noexcept nogil:
        """Add the memory regions that requests in flight use."""
        cdef Range *ranges
        cdef uint32_t slot_index, index
        for slot_index in range(self.open_slot_count()):
            if self.slots[slot_index].state == SLOT_FREE:
                continue
            ranges = self.slot_ranges(slot_index)
            for index in range(<uint32_t>self.slots[slot_index].readable_count + self.slots[slot_index].writable_count):
                add_region(regions, ranges[index].region_index)
            if self.slots[slot_index].has_last_byte:
                add_region(regions, self.slots[slot_index].last_byte.region_index)

    cdef inline uint32_t *submit_entries(self, uint32_t worker_index) noexcept nogil:
        return self.ring_entries + <size_t>(2 * worker_index) * self.slot_count

    cdef inline uint32_t *done_entries(self, uint32_t worker_index) noexcept nogil:
        return self.ring_entries + <size_t>(2 * worker_index + 1) * self.slot_count
