# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Fuzz target: guest memory of any content, through the dispatch loop, with every slot and every transfer checked.

An input lays out memory regions, writes descriptors, tables, headers and an in-flight record into them, and offers
heads; `chain_input.pyx` reads it. The dispatch loop, the parser and the executor are the real ones. Around them stand
a parser that checks each slot as the real one leaves it, and a backend that checks all that it is handed. What is
mapped around a region is poisoned, so that the address sanitizer sees whoever touches it.
"""

import os
import uuid

import posix_ipc
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort
from libc.string cimport memset
from posix.uio cimport iovec

from chain_input cimport ChainInput
from ringblk.engine.dispatcher.dispatch_loop cimport DispatchLoop
from ringblk.shm.memory.guest_memory cimport GuestMemory, MappedRegion
from ringblk.shm.rates.limit cimport CHARGE_OTHER, CHARGE_READ, CHARGE_WRITE
from ringblk.shm.layout.region_set cimport REGION_LIMIT, RegionSet, add_region
from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.state.segment cimport LONG_RANGES, StateSegment
from ringblk.shm.queues.split.virtqueue cimport SplitVirtqueue
from ringblk.workers.block.request cimport (
    DRIVE_ID_BYTES, MAX_SEGMENTS, OPERATION_DISCARD, OPERATION_FLUSH, OPERATION_GET_ID, OPERATION_READ, OPERATION_WRITE,
    OPERATION_WRITE_ZEROES, SECTOR_BYTES, STATUS_UNSUPP, SectorRange,
)
from ringblk.workers.block.state cimport block_state
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.requests.request cimport (
    OPERATION_COMPLETE, SLOT_BRIEF, SLOT_CHANGES, SLOT_DURABLE, SLOT_PARTIAL, RequestExecutor, RequestParser,
)

from ringblk.engine.dispatcher.cpu_placement import CpuPlacement
from ringblk.engine.dispatcher.ring import DispatcherRing
from ringblk.engine.dispatcher.handover import Handover
from ringblk.engine.dispatcher.idle_poll import IdlePoll
from ringblk.engine.dispatcher.inline_gate import InlineGate
from ringblk.engine.devices.io_plan import EVERYTHING_NS
from ringblk.engine.devices.queue_fds import QueueFds
from ringblk.engine.dispatcher.queue_table import QueueTable
from ringblk.engine.dispatcher.recovery import Recovery
from ringblk.engine.dispatcher.throttle import Throttle
from ringblk.shm.queues.errors import InflightError, RingError
from ringblk.shm.queues.inflight_region import queue_region_bytes
from ringblk.workers.block.executor import BlockExecutor
from ringblk.workers.block.parser import OPERATION_NAMES, BlockParser
from ringblk.workers.block.state import publish_block_state

cdef extern from "sanitizer/asan_interface.h" nogil:
    void __asan_poison_memory_region(const void *address, size_t size_bytes)
    void __asan_unpoison_memory_region(const void *address, size_t size_bytes)

cdef enum:
    SLOT_COUNT = 64
    CHAIN_LIMIT = 128
    CAPACITY_SECTORS = 256
    POP_LIMIT = 1024      # in one input: a request may write into the avail ring and so offer another
    EIO = 5


cdef int check(bint holds, const char *claim) noexcept nogil:
    """End the process where a claim does not hold; libFuzzer keeps the input."""
    if not holds:
        fprintf(stderr, b"ringblk fuzz: this does not hold: %s\n", claim)
        abort()
    return 0


cdef int check_range(GuestMemory memory, const Range *piece) noexcept nogil:
    cdef const MappedRegion *region
    check(piece.region_index < REGION_LIMIT, b"a range names a region index that there is")
    region = &memory.regions[piece.region_index]
    check(region.mapping != NULL and region.is_current, b"a range names a region of the table")
    check(piece.offset_bytes <= region.size_bytes
          and piece.length_bytes <= region.size_bytes - piece.offset_bytes, b"a range lies inside its region")
    return 0


cdef int check_used_range(StateSegment state, GuestMemory memory, uint32_t slot_index, const Range *piece) noexcept nogil:
    cdef RegionSet regions
    check_range(memory, piece)
    memset(&regions, 0, sizeof(regions))
    add_region(&regions, piece.region_index)
    return check(state.lies_in(slot_index, &regions), b"a region stays mapped while a slot names it")


cdef class CheckingParser(RequestParser):
    """The real parser; every slot is checked before and after it."""

    cdef RequestParser parser
    cdef StateSegment state
    cdef GuestMemory memory
    cdef uint64_t used_limit_bytes[SLOT_COUNT]   # what the chain that was in a slot last has writable
    cdef uint32_t prepared_count

    def __init__(self, RequestParser parser, StateSegment state, GuestMemory memory):
        self.parser = parser
        self.state = state
        self.memory = memory

    cdef uint64_t affected_bytes(self, RequestSlot *slot) noexcept nogil:
        return self.parser.affected_bytes(slot)

    cdef bint overlaps(self, uint32_t slot_index, uint32_t other_index) noexcept nogil:
        return self.parser.overlaps(slot_index, other_index)

    cdef void prepare(self, uint32_t slot_index, int chain_flags) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Range *ranges = self.state.slot_ranges(slot_index)
        cdef uint32_t index, count = slot.readable_count + slot.writable_count
        check(slot_index < SLOT_COUNT and slot.long_list <= self.state.long_list_count, b"a slot has a list of ranges")
        check(count <= (<uint32_t>LONG_RANGES if slot.long_list else self.state.ranges_per_slot),
              b"a chain's ranges fit into its list")
        self.used_limit_bytes[slot_index] = 0
        for index in range(count):
            check_used_range(self.state, self.memory, slot_index, ranges + index)
            check(ranges[index].length_bytes > 0, b"a range is not empty")
            if index >= slot.readable_count:
                self.used_limit_bytes[slot_index] += ranges[index].length_bytes
        if slot.has_last_byte:
            check_used_range(self.state, self.memory, slot_index, &slot.last_byte)
            check(slot.last_byte.length_bytes == 1, b"a status is a byte")
            self.used_limit_bytes[slot_index] = max(self.used_limit_bytes[slot_index], <uint64_t>1)
        self.parser.prepare(slot_index, chain_flags)
        self.prepared_count += 1
        self._check_prepared(slot, ranges, chain_flags, slot.readable_count, count)

    cdef int _check_prepared(self, RequestSlot *slot, Range *ranges, int chain_flags, uint32_t readable_count,
                             uint32_t count) noexcept nogil:
        cdef uint64_t size_bytes = 0
        cdef uint32_t index
        check(slot.status <= STATUS_UNSUPP, b"a status is one of three")
        check(slot.flags & ~<uint32_t>(SLOT_DURABLE | SLOT_PARTIAL | SLOT_BRIEF | SLOT_CHANGES) == 0, b"no unknown flags")
        check(slot.charge_kind == CHARGE_OTHER or slot.charge_kind == CHARGE_READ
              or slot.charge_kind == CHARGE_WRITE, b"a charge is one of three")
        if slot.operation == OPERATION_COMPLETE:
            return check(slot.used_length_bytes == slot.has_last_byte, b"what is not carried out writes its status at most")
        check(chain_flags == 0 and slot.has_last_byte, b"only a sound chain is carried out")
        if slot.operation == OPERATION_FLUSH:
            return check(block_state(self.state).is_flush_offered and not block_state(self.state).skips_flush, b"flush is on offer")
        if slot.operation == OPERATION_DISCARD or slot.operation == OPERATION_WRITE_ZEROES:
            return self._check_segments(slot, <SectorRange *>ranges)
        check(slot.first_range <= count and slot.range_count <= count - slot.first_range, b"data is of the chain")
        for index in range(slot.first_range, slot.first_range + slot.range_count):
            check_range(self.memory, ranges + index)
            size_bytes += ranges[index].length_bytes
        if slot.operation == OPERATION_WRITE:
            check(not block_state(self.state).is_read_only, b"a read-only drive is not written")
            check(slot.first_range + slot.range_count <= readable_count, b"only readable memory is read")
        else:
            check(slot.first_range >= readable_count, b"only writable memory is written")
        if slot.operation == OPERATION_GET_ID:
            return check(slot.length_bytes <= min(size_bytes, <uint64_t>DRIVE_ID_BYTES), b"there is room for the id")
        check(slot.operation == OPERATION_READ or slot.operation == OPERATION_WRITE, b"the operation is known")
        check(size_bytes == slot.length_bytes, b"the length is that of the ranges")
        return check_place(slot.offset_bytes, slot.length_bytes)

    cdef int _check_segments(self, RequestSlot *slot, const SectorRange *segments) noexcept nogil:
        cdef uint32_t index
        check(block_state(self.state).is_discard_offered and not block_state(self.state).is_read_only, b"discard is on offer")
        check(0 < slot.range_count <= MAX_SEGMENTS and slot.first_range == 0, b"not too many segments")
        for index in range(slot.range_count):
            check(segments[index].sector <= CAPACITY_SECTORS
                  and segments[index].num_sectors <= CAPACITY_SECTORS - segments[index].sector,
                  b"a segment lies on the drive")
        return 0


cdef int check_place(uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
    cdef uint64_t capacity_bytes = CAPACITY_SECTORS * SECTOR_BYTES
    check(offset_bytes % SECTOR_BYTES == 0 and length_bytes % SECTOR_BYTES == 0, b"transfers are of whole sectors")
    return check(offset_bytes <= capacity_bytes and length_bytes <= capacity_bytes - offset_bytes,
                 b"transfers lie on the drive")


cdef class CheckingBackend(NativeBackend):
    """Checks what it is handed, by addresses, and touches every byte of it."""

    cdef GuestMemory memory
    cdef int result
    cdef uint64_t sum_bytes

    def __init__(self, GuestMemory memory):
        self.memory = memory
        self.size_bytes = CAPACITY_SECTORS * SECTOR_BYTES

    cdef int _check(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                    uint64_t length_bytes) noexcept nogil:
        cdef uint64_t size_bytes = 0
        cdef int index
        check_place(offset_bytes, 0)
        for index in range(range_count):
            check(self._is_inside(<const uint8_t *>ranges[index].iov_base, ranges[index].iov_len),
                  b"a worker is handed guest memory alone")
            size_bytes += ranges[index].iov_len
        check(size_bytes == length_bytes, b"the ranges add up")
        return check(offset_bytes + length_bytes <= CAPACITY_SECTORS * SECTOR_BYTES, b"a transfer lies on the drive")

    cdef bint _is_inside(self, const uint8_t *base, size_t size_bytes) noexcept nogil:
        cdef uint32_t index
        cdef MappedRegion *region
        for index in range(<uint32_t>REGION_LIMIT):
            region = &self.memory.regions[index]
            if region.mapping != NULL and base >= region.base \
                    and base + size_bytes <= region.base + region.size_bytes:
                return True
        return False

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        cdef int index
        self._check(ranges, range_count, offset_bytes, length_bytes)
        for index in range(range_count):
            memset(ranges[index].iov_base, <int>(offset_bytes // SECTOR_BYTES), ranges[index].iov_len)
        return self.result

    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil:
        cdef int index
        cdef size_t place
        self._check(ranges, range_count, offset_bytes, length_bytes)
        for index in range(range_count):
            for place in range(ranges[index].iov_len):
                self.sum_bytes += (<const uint8_t *>ranges[index].iov_base)[place]
        return self.result

    cdef int flush_all(self) noexcept nogil:
        return self.result

    cdef int discard_at(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        check_place(offset_bytes, length_bytes)
        return self.result

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes, bint may_unmap) noexcept nogil:
        check_place(offset_bytes, length_bytes)
        return self.result


cdef class ChainTarget:
    """The engine's side, made once; `run` puts one input through it.

    With `extra_sectors` the parser is told of a drive that much larger than it is: a fault to be found.
    """

    cdef StateSegment state
    cdef GuestMemory memory
    cdef CheckingParser parser
    cdef CheckingBackend backend
    cdef DispatchLoop loop
    cdef RequestExecutor executor
    cdef uint64_t extra_sectors
    cdef object recovery
    cdef object fds
    cdef readonly object outcomes

    def __init__(self, uint64_t extra_sectors=0):
        self.extra_sectors = extra_sectors
        self.state = StateSegment.create(f"ringblk-fuzz-{uuid.uuid4().hex}", SLOT_COUNT, CHAIN_LIMIT,
                                         "block", OPERATION_NAMES)
        posix_ipc.unlink_shared_memory(self.state.name)   # libFuzzer ends the process without a word
        self.state.open_slots()
        self.memory = GuestMemory()
        self.backend = CheckingBackend(self.memory)
        self.parser = CheckingParser(BlockParser(self.state, self.memory, 1024), self.state, self.memory)
        self.executor = BlockExecutor(self.state, self.memory, self.backend, b"fuzz")
        self.fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
        self.loop = DispatchLoop(
            self.state, self.memory, self.parser, self.executor, Handover(self.state),
            QueueTable(self.state, self.fds[0]), Throttle(self.state, self.state.rate_limit, False),
            InlineGate(EVERYTHING_NS), DispatcherRing(self.state, self.executor, None), IdlePoll(0),
            CpuPlacement([]),
        )
        self.recovery = Recovery(self.loop)
        self.recovery.take_over(False)
        self.outcomes = {}

    def run(self, bytes data):
        """One input from beginning to end; what became of it, in a word."""
        cdef ChainInput source = ChainInput(data)
        source.read_device()
        publish_block_state(
            self.state, capacity_sectors=CAPACITY_SECTORS + self.extra_sectors, is_read_only=source.is_read_only,
            durable_writes=source.durable_writes, is_flush_offered=source.is_flush_offered,
            is_discard_offered=source.is_discard_offered, skips_flush=source.skips_flush,
        )
        self.backend.result = -EIO if source.is_failing else 0
        try:
            self._map(source)
            source.read_content()
            outcome = self._serve(source)
        finally:
            self._unmap()
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        return outcome

    def _map(self, ChainInput source):
        cdef MappedRegion *mapped
        for index, region in source.regions:
            self.memory.add(index, region, source.fd, index + 1)
            mapped = &self.memory.regions[<uint32_t>index]
            __asan_poison_memory_region(mapped.mapping, mapped.base - mapped.mapping)
            __asan_poison_memory_region(mapped.base + mapped.size_bytes,
                                        mapped.mapping + mapped.mapping_bytes - mapped.base - mapped.size_bytes)
        for index in source.removed:
            self.memory.remove(index)

    def _unmap(self):
        cdef uint32_t index
        for index in range(<uint32_t>REGION_LIMIT):
            if self.memory.regions[index].mapping != NULL:
                __asan_unpoison_memory_region(self.memory.regions[index].mapping,
                                              self.memory.regions[index].mapping_bytes)
                self.memory.unmap(index)

    def _serve(self, ChainInput source):
        """Start the queue as the dispatcher does, serve it until nothing is left, stop it."""
        cdef SplitVirtqueue virtqueue
        cdef uint32_t done_before
        try:
            virtqueue = SplitVirtqueue(0, source.queue_size, self.memory, source.desc_uva, source.avail_uva,
                                       source.used_uva, source.event_idx, CHAIN_LIMIT)
        except RingError:
            return "refused: rings"
        record = bytearray(queue_region_bytes(source.queue_size))
        source.fill_record(record)
        try:
            virtqueue.resume(record, 0, source.base)
        except InflightError:
            return "refused: in-flight record"
        source.change_record(record)
        self.loop.add_queue(virtqueue, QueueFds(self.fds[1], self.fds[2]), True)
        self.recovery.resubmit(0)
        done_before = virtqueue.next_used
        self.parser.prepared_count = 0
        while self._pop_once() and self.parser.prepared_count < POP_LIMIT:
            pass
        while self._release_once():
            pass
        broken = virtqueue.broken
        check(<uint16_t>(virtqueue.next_used - done_before) == <uint16_t>self.parser.prepared_count,
              b"each chain taken in comes back once")
        check(virtqueue.inflight_count == 0, b"nothing stays in flight")
        check(self.loop.handover.free_count == SLOT_COUNT, b"every slot is free again")
        check(self.loop.handover.free_list_count == self.state.long_list_count, b"every long list is free again")
        self._check_outcomes()
        self.loop.take_broken()
        self.executor.take_error()
        self.loop.table.remove_queue(0)
        return f"broken: {broken}" if broken else "served"

    cdef bint _pop_once(self) noexcept:
        """What DispatchLoop._run does each time round, without sleeping."""
        cdef uint32_t popped
        with nogil:
            popped = self.loop._resubmit_all() + self.loop._pop_all()
            self.loop.handover.publish()
            self.loop.complete()
        return popped > 0 or self._release_once()

    cdef bint _release_once(self) noexcept:
        """Begin what has waited for requests that change the same blocks."""
        cdef uint32_t released
        with nogil:
            released = self.loop._release_held()
            self.loop.handover.publish()
            self.loop.complete()
        return released > 0

    cdef int _check_outcomes(self) noexcept:
        cdef uint32_t index
        cdef RequestSlot *slot
        for index in range(<uint32_t>SLOT_COUNT):
            slot = &self.state.slots[index]
            check(slot.state == 0 and slot.status <= STATUS_UNSUPP, b"a status is one of three in the end")
            check(slot.used_length_bytes <= self.parser.used_limit_bytes[index],
                  b"a used length is at most what the chain has writable")
        return 0
