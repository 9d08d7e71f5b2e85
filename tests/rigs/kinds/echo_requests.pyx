# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The requests of an echo device: a second kind, for tests of what is of no kind.

A request is 8 readable bytes, command and argument (32 bits each), then data; its reply is as long as it happens to be.

- ECHO: the data comes back.
- NOTE: the data is written to the backend, `argument` bytes from its start. There is no reply, and no room for one.
- RECALL: what the backend has there, as much as there is room for.
- WAIT: like ECHO, but pending as long as the gate is shut (`EchoGate`).
- ROTATE_1 to ROTATE_8: the data comes back, rotated by so many bytes.

A bad request comes back with a used length of 0. A reply is at most as long as the device's state says.
"""

import os

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.uio cimport iovec

from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.state.segment cimport KIND_STATE_BYTES, StateSegment
from ringblk.shm.sync.atomic cimport load_acquire_32
from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.requests.request cimport (
    OPERATION_COMPLETE, OUTCOME_DONE, OUTCOME_PENDING, RequestExecutor, RequestParser,
)

cdef enum:
    OPERATION_ECHO = 1
    OPERATION_NOTE = 2
    OPERATION_RECALL = 3
    OPERATION_WAIT = 4
    OPERATION_ROTATE_1 = 5
    LAST_OPERATION = 12
    HEADER_BYTES = 8
    DATA_LIMIT = 4096

OPERATIONS = ("echo", "note", "recall", "wait", *(f"rotate_{count}" for count in range(1, 9)))


cdef struct EchoState:
    uint32_t reply_limit_bytes
    uint32_t reserved[15]

assert sizeof(EchoState) == KIND_STATE_BYTES


def publish_reply_limit(StateSegment state, uint32_t size_bytes):
    """Have replies be no longer than this."""
    (<EchoState *>state.header.kind_state).reply_limit_bytes = size_bytes


cdef class EchoParser(RequestParser):
    """Takes the command off and leaves the data where it is; refuses what is of no use."""

    cdef StateSegment state
    cdef GuestMemory memory

    def __init__(self, StateSegment state, GuestMemory memory):
        self.state = state
        self.memory = memory

    cdef void prepare(self, uint32_t slot_index, int chain_flags) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Range *ranges = self.state.slot_ranges(slot_index)
        cdef uint32_t index
        cdef uint32_t[2] header
        slot.operation = OPERATION_COMPLETE
        slot.flags = 0
        slot.status = 1
        slot.charge_kind = 0
        slot.length_bytes = 0
        slot.used_length_bytes = 0
        slot.first_range = 0
        slot.range_count = slot.readable_count
        if chain_flags or slot.readable_count == 0 or ranges.length_bytes < HEADER_BYTES:
            return
        memcpy(header, self.memory.pointer(ranges), HEADER_BYTES)   # the one reading
        ranges.offset_bytes += HEADER_BYTES
        ranges.length_bytes -= HEADER_BYTES
        for index in range(slot.readable_count):
            slot.length_bytes += ranges[index].length_bytes
        if header[0] == 0 or header[0] > LAST_OPERATION or slot.length_bytes > DATA_LIMIT:
            return
        slot.offset_bytes = header[1]
        slot.operation = header[0]


cdef class EchoExecutor(RequestExecutor):
    """Carries them out. `gate_view` is one word in shared memory: 0 while the gate is shut."""

    cdef StateSegment state
    cdef GuestMemory memory
    cdef NativeBackend backend
    cdef object gate_view
    cdef const uint32_t *is_open
    cdef uint32_t *pending
    cdef uint32_t pending_count
    cdef uint8_t data[DATA_LIMIT]

    def __init__(self, StateSegment state, GuestMemory memory, NativeBackend backend, gate_view, int gate_fd):
        os.uname()   # a system call of this kind alone
        self.state = state
        self.memory = memory
        self.backend = backend
        self.gate_view = gate_view
        self.is_open = <const uint32_t *>address_of(gate_view)
        self.outcome_fd = gate_fd
        self.pending = <uint32_t *>calloc(state.slot_count, sizeof(uint32_t))
        if self.pending == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.pending)

    cdef int execute(self, uint32_t slot_index) noexcept nogil:
        if self.state.slots[slot_index].operation == OPERATION_WAIT and not self.has_outcomes():
            self.pending[self.pending_count] = slot_index
            self.pending_count += 1
            return OUTCOME_PENDING
        self._settle(slot_index)
        return OUTCOME_DONE

    cdef bint has_outcomes(self) noexcept nogil:
        return load_acquire_32(self.is_open) != 0

    cdef int reap(self) noexcept nogil:
        if self.pending_count == 0 or not self.has_outcomes():
            return -1
        self.pending_count -= 1
        self._settle(self.pending[self.pending_count])
        return <int>self.pending[self.pending_count]

    cdef void fail(self, uint32_t slot_index) noexcept nogil:
        self.state.slots[slot_index].status = 1
        self.state.slots[slot_index].used_length_bytes = 0

    cdef void _settle(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Range *ranges = self.state.slot_ranges(slot_index)
        cdef uint32_t size_bytes = self._gather(ranges, slot.readable_count), rotated = 0
        cdef int error = 0
        cdef iovec vector
        vector.iov_base = self.data
        self.fail(slot_index)
        if slot.operation == OPERATION_NOTE:
            vector.iov_len = size_bytes
            error = self.backend.writev_at(&vector, 1, slot.offset_bytes, size_bytes, False)
            size_bytes = 0
        elif slot.operation == OPERATION_RECALL:
            size_bytes = min(self._room(ranges, slot), <uint32_t>DATA_LIMIT)
            vector.iov_len = size_bytes
            error = self.backend.readv_at(&vector, 1, slot.offset_bytes, size_bytes)
        elif slot.operation >= OPERATION_ROTATE_1:
            rotated = slot.operation - OPERATION_ROTATE_1 + 1
        if error:
            self.last_error = error
            return
        slot.used_length_bytes = self._scatter(ranges, slot, size_bytes, rotated)
        slot.status = 0

    cdef uint32_t _gather(self, const Range *ranges, uint32_t count) noexcept nogil:
        cdef uint32_t index, size_bytes = 0
        for index in range(count):
            memcpy(self.data + size_bytes, self.memory.pointer(ranges + index), ranges[index].length_bytes)
            size_bytes += ranges[index].length_bytes
        return size_bytes

    cdef uint32_t _room(self, const Range *ranges, const RequestSlot *slot) noexcept nogil:
        cdef uint32_t index, room_bytes = 0
        for index in range(slot.readable_count, <uint32_t>slot.readable_count + slot.writable_count):
            room_bytes += ranges[index].length_bytes
        return room_bytes

    cdef uint32_t _scatter(self, const Range *ranges, const RequestSlot *slot, uint32_t size_bytes,
                           uint32_t rotated) noexcept nogil:
        """Write the reply, as far as there is room for it; its length."""
        cdef uint32_t index, place, done = 0
        cdef uint8_t *target
        cdef uint32_t limit_bytes = min(size_bytes, (<EchoState *>self.state.header.kind_state).reply_limit_bytes)
        for index in range(slot.readable_count, <uint32_t>slot.readable_count + slot.writable_count):
            target = self.memory.pointer(ranges + index)
            for place in range(min(ranges[index].length_bytes, limit_bytes - done)):
                target[place] = self.data[(done + rotated) % size_bytes]
                done += 1
        return done
