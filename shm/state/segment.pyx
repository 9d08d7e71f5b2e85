# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The state segment of one engine: request slots, worker rings, queue states, counters.

`segment.pxd` holds the layout. Everything here survives the death of any process of the engine: a new
dispatcher or worker attaches to the same segment and goes on from it.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

import os

from ringblk.shm.rates.limit import RateLimit
from ringblk.shm.segments.segment import Segment, SegmentError, checked_size_bytes, is_held
from ringblk.shm.sync.atomic cimport clear_bits_64, full_fence, load_acquire_64, set_bits_64, store_relaxed_32, store_release_32
from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.rates.limit cimport RATE_LIMIT_STATE_BYTES
from ringblk.shm.layout.region_set cimport REGION_WORDS, RegionSet, region_mask, region_set
from ringblk.shm.layout.slot cimport SLOT_ALIGN_BYTES, Range, RequestSlot
from ringblk.shm.layout.split_ring cimport MAX_QUEUE_SIZE

SEGMENT_KIND = "stat"
LAYOUT_VERSION = STATE_LAYOUT_VERSION
SEGMENT_PREFIX = "ringblk-engine-"
MAX_QUEUES = QUEUE_LIMIT
MAX_WORKERS = WORKER_LIMIT
MAX_SLOTS = 1 << 16
MAX_RANGES_PER_SLOT = MAX_QUEUE_SIZE + RANGE_SLACK
MAX_CHAIN_DESCRIPTORS = CHAIN_LIMIT
MAX_LONG_CHAINS = LONG_LIST_LIMIT
OTHER_OPERATION = "other"


assert sizeof(RequestSlot) == SLOT_ALIGN_BYTES, "a slot is two cache lines"
assert RATE_LIMIT_STATE_BYTES % 64 == 0, "what follows begins on a cache line"


cdef enum:
    PAGE_BYTES = 4096


cdef size_t _page_up(size_t size_bytes) noexcept:
    return (size_bytes + PAGE_BYTES - 1) & ~<size_t>(PAGE_BYTES - 1)


cdef size_t _header_bytes() noexcept:
    """What follows begins on a cache line of its own."""
    return (sizeof(StateHeader) + 63) & ~<size_t>63


cdef size_t _rest_bytes() noexcept:
    """What has memory from the beginning."""
    return _page_up(_header_bytes() + RATE_LIMIT_STATE_BYTES + QUEUE_LIMIT * sizeof(QueueState))


cdef bint _is_zero(const uint8_t *page) noexcept:
    return page[0] == 0 and memcmp(page, page + 1, PAGE_BYTES - 1) == 0


cdef bint _is_slot_count(uint32_t slot_count) noexcept:
    return 2 <= slot_count <= MAX_SLOTS and slot_count & (slot_count - 1) == 0


def _checked_counts(kind, int fd, str name, size_bytes):
    """`(slot_count, ranges_per_slot, operation_count)`, read once: who may write there may do so meanwhile.

    Raises `SegmentError`. Within these limits no sum overflows.
    """
    data = os.pread(fd, sizeof(StateHeader), 0)
    if len(data) < <Py_ssize_t>sizeof(StateHeader):
        raise SegmentError(f"shared memory segment {name} was cut off while it was read")
    cdef const StateHeader *header = <const StateHeader *><const char *>data
    cdef uint32_t slot_count = header.slot_count, ranges_per_slot = header.ranges_per_slot
    cdef uint32_t operation_count = header.operation_count
    if (not _is_slot_count(slot_count) or ranges_per_slot > MAX_RANGES_PER_SLOT
            or not 1 <= operation_count <= OPERATION_LIMIT
            or kind.size_bytes(slot_count, ranges_per_slot, operation_count) != size_bytes):
        raise SegmentError(f"shared memory segment {name} has no room for the {slot_count} slots it names")
    return slot_count, ranges_per_slot, operation_count


cdef bytes _checked_name(str name, uint32_t size_bytes):
    """A name padded with zeroes, one at least. Raises `ValueError` for one that is too long."""
    encoded = name.encode()
    if len(encoded) >= size_bytes:
        raise ValueError(f"the name {name} is longer than {size_bytes - 1} bytes")
    return encoded.ljust(size_bytes, b"\0")


cdef uint32_t _long_list_count(uint32_t slot_count, uint32_t ranges_per_slot) noexcept:
    """None where a slot's own list is as long."""
    return 0 if ranges_per_slot >= <uint32_t>LONG_RANGES else min(slot_count, <uint32_t>LONG_LIST_LIMIT)


cdef size_t _bytes_before_ranges(uint32_t slot_count, uint32_t operation_count) noexcept:
    return (_rest_bytes() + _page_up(WORKER_LIMIT * sizeof(WorkerState))
            + _page_up(<size_t>WORKER_LIMIT * 2 * slot_count * sizeof(uint32_t))
            + _page_up(slot_count * sizeof(RequestSlot))
            + _page_up(operation_count * sizeof(OperationStatistics)))


cdef void forget_lost_regions(StateHeader *header, uint32_t word, uint64_t mask) noexcept nogil:
    """Forget that the regions of a word of the set were lost."""
    cdef uint64_t word_bit = (<uint64_t>1) << word
    clear_bits_64(&header.lost_regions.words[word], mask)
    if load_acquire_64(&header.lost_regions.words[word]) == 0:
        clear_bits_64(&header.lost_words, word_bit)
        # Full fence, then once more: who loses a region sets its bit first and the word's then (note_lost_region).
        full_fence()
        if load_acquire_64(&header.lost_regions.words[word]) != 0:
            set_bits_64(&header.lost_words, word_bit)


cdef class StateSegment:
    """A mapped state segment. `create` for the supervisor, `of_fd` for its children."""

    def __init__(self, segment, uint32_t slot_count, uint32_t ranges_per_slot, uint32_t operation_count):
        self.segment = segment
        self.view = memoryview(segment.memory)
        cdef uint8_t *place = address_of(self.view)
        self.header = <StateHeader *>place
        self.slot_count = slot_count
        self.ranges_per_slot = ranges_per_slot
        self.operation_count = operation_count
        self.rate_limit_offset = _header_bytes()
        self.queues = <QueueState *>(place + _header_bytes() + RATE_LIMIT_STATE_BYTES)
        place += _rest_bytes()
        self.workers = <WorkerState *>place
        place += _page_up(WORKER_LIMIT * sizeof(WorkerState))
        self.ring_entries = <uint32_t *>place
        place += _page_up(<size_t>WORKER_LIMIT * 2 * self.slot_count * sizeof(uint32_t))
        self.slots = <RequestSlot *>place
        place += _page_up(self.slot_count * sizeof(RequestSlot))
        self.operations = <OperationStatistics *>place
        place += _page_up(operation_count * sizeof(OperationStatistics))
        self.ranges = <Range *>place
        place += _page_up(<size_t>self.slot_count * self.ranges_per_slot * sizeof(Range))
        self.long_lists = <Range *>place
        self.long_list_count = _long_list_count(slot_count, ranges_per_slot)

    @staticmethod
    def size_bytes(uint32_t slot_count, uint32_t ranges_per_slot, uint32_t operation_count=1):
        """How large a segment for so many slots is."""
        return (_bytes_before_ranges(slot_count, operation_count)
                + _page_up(<size_t>slot_count * ranges_per_slot * sizeof(Range))
                + <size_t>_long_list_count(slot_count, ranges_per_slot) * LONG_RANGES * sizeof(Range))

    @classmethod
    def create(cls, str name, uint32_t slot_count, uint32_t queue_size, str kind_name="", operations=()):
        """Create the named segment with `slot_count` slots (a power of two) for chains of `queue_size`.

        `operations` are the names of what the device kind does, from operation 1 on; operation 0 is any request
        that is answered without being carried out. Raises `SegmentError` when there is no room, `ValueError`
        when the count is not a power of two or a name is too long.
        """
        cdef bytes encoded
        cdef uint32_t operation, operation_count = 1 + len(operations)
        if not _is_slot_count(slot_count):
            raise ValueError(f"slot count {slot_count} is not a power of two from 2 to {MAX_SLOTS}")
        if operation_count > OPERATION_LIMIT:
            raise ValueError(f"{operation_count} operations, more than {OPERATION_LIMIT}")
        cdef uint32_t ranges_per_slot = queue_size + RANGE_SLACK
        segment = Segment.create(name, SEGMENT_KIND, STATE_LAYOUT_VERSION,
                                 cls.size_bytes(slot_count, ranges_per_slot, operation_count),
                                 _rest_bytes())
        view = memoryview(segment.memory)
        cdef StateHeader *header = <StateHeader *>address_of(view)
        header.slot_count = slot_count
        header.ranges_per_slot = ranges_per_slot
        header.operation_count = operation_count
        encoded = _checked_name(kind_name, KIND_NAME_BYTES)
        memcpy(header.kind_name, <const char *>encoded, KIND_NAME_BYTES)
        for operation, operation_name in enumerate((OTHER_OPERATION, *operations)):
            encoded = _checked_name(operation_name, OPERATION_NAME_BYTES)
            memcpy(header.operation_names[operation], <const char *>encoded, OPERATION_NAME_BYTES)
        return cls(segment, slot_count, ranges_per_slot, operation_count)

    def open_worker(self, uint32_t worker_index):
        """Have memory for the parts of the workers up to this one, before it starts. Raises `OSError` where there is none."""
        cdef uint32_t first = self.header.open_worker_count
        if worker_index < first:
            return
        cdef size_t count = worker_index + 1 - first
        self._allocate(&self.workers[first], count * sizeof(WorkerState))
        self._allocate(self.submit_entries(first), 2 * count * self.slot_count * sizeof(uint32_t))
        # Release: the memory before the word that it is there; pairs with the readers' acquire.
        store_release_32(&self.header.open_worker_count, worker_index + 1)

    def open_slots(self):
        """Have memory for what a queue needs, before it starts. Raises `OSError` where there is none."""
        if self.header.are_slots_open:
            return
        self._allocate(self.slots, self.segment.size_bytes - self._offset(self.slots))
        # Release: the memory before the word that it is there; pairs with open_slot_count.
        store_release_32(&self.header.are_slots_open, 1)
        crash_point("supervisor: slots opened")

    def close_slots(self):
        """Give back what only queues need: no queue is served, and nothing is in flight.

        Statistics stay, but for whole pages of zeroes.
        """
        if not self.header.are_slots_open:
            return
        store_release_32(&self.header.are_slots_open, 0)
        crash_point("supervisor: slots closed")
        self.segment.give_back(self._offset(self.slots), self._offset(self.operations) - self._offset(self.slots))
        self.segment.give_back(self._offset(self.ranges), self.segment.size_bytes - self._offset(self.ranges))
        cdef const uint8_t *page = <const uint8_t *>self.operations
        cdef const uint8_t *end = <const uint8_t *>self.ranges
        cdef const uint8_t *first
        while page < end:
            first = page
            while page < end and _is_zero(page):
                page += PAGE_BYTES
            self.segment.give_back(self._offset(first), page - first)
            page += PAGE_BYTES

    cdef size_t _offset(self, const void *place) noexcept:
        return <const uint8_t *>place - <const uint8_t *>self.header

    cdef _allocate(self, const void *place, size_t size_bytes):
        self.segment.allocate(self._offset(place), size_bytes)

    @classmethod
    def attach(cls, str name):
        """Map a living engine's segment by name, to read it. Raises `SegmentError`.

        For who trusts the engine's user; all others make a copy.
        """
        segment = Segment.attach(name, SEGMENT_KIND, STATE_LAYOUT_VERSION)
        try:
            counts = _checked_counts(cls, segment.fd, name, segment.size_bytes)
        except SegmentError:
            segment.close()
            raise
        return cls(segment, *counts)

    @classmethod
    def of_fd(cls, int fd):
        """Map the segment of this process's own engine by its descriptor, which is the object's from then on.

        Raises `SegmentError`.
        """
        segment = Segment.attach_fd(fd, SEGMENT_KIND, STATE_LAYOUT_VERSION)
        return cls(segment, *_checked_counts(cls, fd, "", segment.size_bytes))

    def own(self, str former_name, str name):
        """Be its creator from now on, in place of one that has died, and call it by another name."""
        self.segment.own(former_name, name)

    @classmethod
    def copy_of(cls, int fd, str name):
        """What an engine's segment says at this moment, but for its slots' ranges, copied. Raises `SegmentError`.

        Nothing is mapped, so whoever owns the segment may cut it off under the reader. `fd` stays the caller's.
        """
        counts = _checked_counts(cls, fd, name, checked_size_bytes(fd, SEGMENT_KIND, STATE_LAYOUT_VERSION, name))
        slot_count, _, operation_count = counts
        segment = Segment(name, -1, _bytes_before_ranges(slot_count, operation_count), is_creator=False)
        if os.preadv(fd, [segment.memory], 0) < segment.size_bytes:
            segment.close()
            raise SegmentError(f"shared memory segment {name} was cut off while it was read")
        return cls(segment, *counts)

    @property
    def is_copy(self):
        """Whether it is what `copy_of` has made."""
        return self.segment.fd < 0

    def copy(self):
        """`copy_of` this segment, so that looking at it gives no memory to parts that have none."""
        return StateSegment.copy_of(self.segment.fd, self.segment.name)

    @property
    def name(self):
        """The segment's name in the system."""
        return self.segment.name

    def set_engine(self, str drive_name, str storage_name, uint32_t supervisor_pid, uint32_t queue_count, uint64_t started_ns):
        """Say whose segment this is. The supervisor is the only writer, here and in the next three.

        Raises `ValueError` for a drive's name that is too long; one of its storage is cut.
        """
        cdef bytes name = _checked_name(drive_name, DRIVE_NAME_BYTES)
        memcpy(self.header.drive_name, <const char *>name, DRIVE_NAME_BYTES)
        name = storage_name.encode(errors="surrogateescape")[:STORAGE_NAME_BYTES]
        memset(self.header.storage_name, 0, STORAGE_NAME_BYTES)
        memcpy(self.header.storage_name, <const char *>name, len(name))
        self.header.supervisor_pid = supervisor_pid
        self.header.queue_count = queue_count
        self.header.started_ns = started_ns

    def set_engine_name(self, str name):
        """Say what the engine is called beside others. Raises `ValueError` for a name that is too long."""
        cdef bytes encoded = _checked_name(name, ENGINE_NAME_BYTES)
        memcpy(self.header.engine_name, <const char *>encoded, ENGINE_NAME_BYTES)

    def fileno(self):
        """The descriptor of the segment."""
        return self.segment.fd

    def set_image(self, uint64_t device, uint64_t inode):
        """Say which image this engine uses (engine/program/image_claim.py)."""
        self.segment.set_subject(device, inode)

    @property
    def image(self):
        """What `set_image` was told; (0, 0): there is none."""
        return self.segment.subject

    def set_dispatcher(self, uint32_t pid, bint is_restart=False):
        """This process is the dispatcher now (0: there is none), in place of one that died or not."""
        self.header.dispatcher_pid = pid
        self.header.dispatcher_restart_count += is_restart

    def set_worker(self, uint32_t worker_index, uint32_t pid, bint has_died=False):
        """This process is that worker now; 0: there is none, because it died or not."""
        self.workers[worker_index].pid = pid
        self.workers[worker_index].restart_count += has_died

    def set_worker_limit(self, uint32_t count):
        """Say how many workers there may be."""
        store_relaxed_32(&self.header.worker_limit, count)

    def set_paused(self, bint is_paused):
        """Say whether requests are popped at all."""
        self.header.is_paused = is_paused

    @property
    def is_connected(self):
        """Whether a front end is served."""
        return self.header.is_connected != 0

    def set_connected(self, bint is_connected):
        """Say whether a front end is served. The supervisor is the only writer, as of what stands before."""
        self.header.is_connected = is_connected

    def announce_control(self, int worker_index=-1):
        """Say that a message waits on a channel: the dispatcher's, or that of a worker.

        Released after the message was sent; pairs with the acquire load in the loops that then read it.
        """
        if worker_index < 0:
            store_release_32(&self.header.control_pending, 1)
        else:
            store_release_32(&self.workers[worker_index].control_pending, 1)
        crash_point("supervisor: message announced")

    @property
    def rate_limit(self):
        """The drive's own rate limit."""
        return RateLimit(self.segment.memory, self.rate_limit_offset)

    def broken_reason(self, uint32_t queue_index):
        """Why the queue is broken (0: it is not)."""
        return self.queues[queue_index].is_broken

    @property
    def lost_memory(self):
        """Memory of the front end that cannot be reached: a bit for each region index, and the in-flight region."""
        return region_mask(&self.header.lost_regions), self.header.lost_parts

    def keep_lost_regions(self, mask):
        """Forget of all other region indexes that their memory was lost."""
        cdef RegionSet kept = region_set(mask)
        cdef uint32_t word
        for word in range(<uint32_t>REGION_WORDS):
            forget_lost_regions(self.header, word, ~kept.words[word])

    def used_count(self, uint32_t queue_index):
        """Requests that the queue has given back."""
        return self.queues[queue_index].used_count

    def worker_counters(self, uint32_t worker_index):
        """Requests done and nanoseconds spent on them by whoever held this worker index."""
        return self.workers[worker_index].request_count, self.workers[worker_index].busy_ns

    def close(self):
        """Unmap; the creator removes the name."""
        self.view = None
        self.segment.close()
