# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Carrying out block requests from their slots: the workers' half (virtio 1.2, 5.2.6)."""

from libc.errno cimport EFAULT
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.state.segment cimport StateSegment
from ringblk.workers.block.request cimport (
    DRIVE_ID_BYTES, OPERATION_DISCARD, OPERATION_FLUSH, OPERATION_GET_ID, OPERATION_READ, OPERATION_WRITE,
    OPERATION_WRITE_ZEROES, SECTOR_BYTES, SEGMENT_F_UNMAP, STATUS_IOERR, STATUS_OK, Segment,
)
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.requests.request cimport OUTCOME_DONE, SLOT_DURABLE, SLOT_PARTIAL, RequestExecutor
from ringblk.workers.uring.ring cimport (
    IORING_FSYNC_DATASYNC, IORING_OP_FSYNC, IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE, IORING_OP_WRITEV,
    io_uring_sqe,
)

cdef extern from "sys/uio.h" nogil:
    int RWF_DSYNC

cdef enum:
    IOV_LIMIT = 1024    # ranges in one call (IOV_MAX)


cdef class BlockExecutor(RequestExecutor):
    """Executes requests on one backend. `drive_id` is cut at 20 bytes and padded with zeroes."""

    cdef StateSegment state
    cdef GuestMemory memory
    cdef NativeBackend backend
    cdef uint8_t drive_id[DRIVE_ID_BYTES]
    cdef iovec vectors[IOV_LIMIT]

    def __init__(self, StateSegment state, GuestMemory memory, NativeBackend backend, bytes drive_id):
        self.state = state
        self.memory = memory
        self.backend = backend
        self.failure_status = STATUS_IOERR
        memset(self.drive_id, 0, DRIVE_ID_BYTES)
        memcpy(self.drive_id, <const char *>drive_id, min(len(drive_id), DRIVE_ID_BYTES))

    cdef int execute(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Range *ranges = self.state.slot_ranges(slot_index) + slot.first_range
        cdef int error = 0
        slot.used_length_bytes = 1
        slot.status = STATUS_IOERR
        if self.memory.is_lost():   # what the request was read from may have been zeroes in place of the guest's bytes
            return OUTCOME_DONE
        if slot.operation == OPERATION_READ:
            error = self._transfer(slot, ranges)
            if error == 0:
                slot.used_length_bytes += <uint32_t>slot.length_bytes
        elif slot.operation == OPERATION_WRITE:
            error = self._transfer(slot, ranges)
        elif slot.operation == OPERATION_FLUSH:
            error = self.backend.flush_all()
        elif slot.operation == OPERATION_GET_ID:
            self._give_id(ranges, <uint32_t>slot.length_bytes)
            slot.used_length_bytes += <uint32_t>slot.length_bytes
        else:
            error = self._change_segments(slot, <Segment *>ranges)
        if error == -EFAULT and (slot.operation == OPERATION_READ or slot.operation == OPERATION_WRITE):
            self.memory.look_at(ranges, slot.range_count)
        if self.memory.is_lost():
            slot.used_length_bytes = 1
        elif error == 0:
            slot.status = STATUS_OK
        else:
            self.last_error = error
            self.last_error_slot = slot_index
        return OUTCOME_DONE

    cdef bint begin(self, uint32_t slot_index, io_uring_sqe *entry, iovec *vectors,
                    uint32_t vector_limit) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Range *ranges = self.state.slot_ranges(slot_index) + slot.first_range
        if self.memory.is_lost():
            return False
        if slot.operation == OPERATION_FLUSH:
            entry.opcode = IORING_OP_FSYNC
            entry.fd = self.backend.fd
            entry.fsync_flags = IORING_FSYNC_DATASYNC
            return True
        if slot.operation != OPERATION_READ and slot.operation != OPERATION_WRITE:
            return False
        if slot.range_count == 0 or slot.range_count > vector_limit or slot.flags & SLOT_PARTIAL:
            return False
        self._fill_vectors(vectors, ranges, slot.range_count)
        if not self.backend.is_aligned(vectors, <int>slot.range_count, slot.offset_bytes):
            return False
        entry.fd = self.backend.fd
        entry.off = slot.offset_bytes
        if slot.range_count == 1:
            entry.opcode = IORING_OP_READ if slot.operation == OPERATION_READ else IORING_OP_WRITE
            entry.addr = <uint64_t>vectors.iov_base
            entry.len = <uint32_t>vectors.iov_len
        else:
            entry.opcode = IORING_OP_READV if slot.operation == OPERATION_READ else IORING_OP_WRITEV
            entry.addr = <uint64_t>vectors
            entry.len = slot.range_count
        if slot.operation == OPERATION_WRITE and slot.flags & SLOT_DURABLE:
            entry.rw_flags = RWF_DSYNC
        return True

    cdef bint end(self, uint32_t slot_index, int result) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        if result < 0 or self.memory.is_lost() \
                or (slot.operation != OPERATION_FLUSH and <uint64_t>result != slot.length_bytes):
            return False
        slot.used_length_bytes = 1
        if slot.operation == OPERATION_READ:
            slot.used_length_bytes += <uint32_t>slot.length_bytes
        slot.status = STATUS_OK
        return True

    cdef void finish(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        if slot.has_status:
            self.memory.pointer(&slot.status_range)[0] = <uint8_t>slot.status

    cdef int _transfer(self, RequestSlot *slot, Range *ranges) noexcept nogil:
        """Read or write the data, at most IOV_LIMIT ranges a call."""
        cdef uint32_t done = 0, count
        cdef uint64_t offset_bytes = slot.offset_bytes, part_bytes
        cdef int error
        while done < slot.range_count:
            count = min(slot.range_count - done, <uint32_t>IOV_LIMIT)
            part_bytes = self._fill_vectors(self.vectors, ranges + done, count)
            if slot.operation == OPERATION_READ:
                error = self.backend.readv_at(self.vectors, <int>count, offset_bytes, part_bytes)
            else:
                error = self.backend.writev_at(self.vectors, <int>count, offset_bytes, part_bytes,
                                               slot.flags & SLOT_DURABLE)
            if error:
                return error
            offset_bytes += part_bytes
            done += count
        return 0

    cdef uint64_t _fill_vectors(self, iovec *vectors, Range *ranges, uint32_t count) noexcept nogil:
        """Resolve ranges to this process's addresses; returns their length together."""
        cdef uint32_t index
        cdef uint64_t size_bytes = 0
        for index in range(count):
            vectors[index].iov_base = self.memory.pointer(ranges + index)
            vectors[index].iov_len = ranges[index].length_bytes
            size_bytes += ranges[index].length_bytes
        return size_bytes

    cdef void _give_id(self, Range *ranges, uint32_t size_bytes) noexcept nogil:
        """Scatter the drive id, or what fits of it, over the first bytes of the data."""
        cdef uint32_t given = 0, part_bytes
        while given < size_bytes:
            part_bytes = min(ranges.length_bytes, size_bytes - given)
            memcpy(self.memory.pointer(ranges), self.drive_id + given, part_bytes)
            given += part_bytes
            ranges += 1

    cdef int _change_segments(self, RequestSlot *slot, Segment *segments) noexcept nogil:
        cdef uint32_t index
        cdef uint64_t offset_bytes, length_bytes
        cdef int error
        for index in range(slot.range_count):
            offset_bytes = segments[index].sector * SECTOR_BYTES
            length_bytes = <uint64_t>segments[index].num_sectors * SECTOR_BYTES
            if slot.operation == OPERATION_DISCARD:
                error = self.backend.discard_at(offset_bytes, length_bytes)
            else:
                error = self.backend.write_zeroes_at(offset_bytes, length_bytes,
                                                     segments[index].flags & SEGMENT_F_UNMAP)
            if error:
                return error
        return self.backend.flush_all() if slot.flags & SLOT_DURABLE else 0
