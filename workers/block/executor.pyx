# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Carrying out block requests from their slots: the workers' half (virtio 1.2, 5.2.6)."""

cimport cython
from libc.errno cimport EFAULT, EOPNOTSUPP
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.state.segment cimport StateSegment
from ringblk.workers.block.request cimport (
    DRIVE_ID_BYTES, OPERATION_DISCARD, OPERATION_FLUSH, OPERATION_GET_ID, OPERATION_READ, OPERATION_WRITE,
    OPERATION_WRITE_ZEROES, SECTOR_BYTES, SEGMENT_F_UNMAP, STATUS_IOERR, STATUS_OK, SectorRange,
)
from ringblk.workers.backends.asynchronous cimport (
    STORAGE_DISCARD, STORAGE_FLUSH, STORAGE_READ, STORAGE_WRITE, STORAGE_WRITE_ZEROES, AsyncForm, StorageOutcome,
    StorageRequest,
)
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.requests.request cimport (
    OUTCOME_DONE, OUTCOME_PENDING, SLOT_DURABLE, SLOT_PARTIAL, RequestExecutor,
)

cdef enum:
    IOV_LIMIT = 1024    # ranges in one call (IOV_MAX)

cdef struct Progress:
    # Of a request that is pending: it is begun in parts, by IOV_LIMIT ranges or segment by segment.
    uint32_t left             # parts that the form has
    int error                 # of the first part that failed
    bint is_flushed           # the flush after the last part was begun


@cython.final
cdef class BlockExecutor(RequestExecutor):
    """Executes requests on one backend. `drive_id` is cut at 20 bytes and padded with zeroes.

    Where the backend has an asynchronous form in this process, requests are begun on that and are pending. What
    it does not take, and all where there is none, is done by the blocking form.
    """

    cdef StateSegment state
    cdef GuestMemory memory
    cdef NativeBackend backend
    cdef AsyncForm form       # the backend's, or None
    cdef bint has_unsubmitted # it had no room for all that was begun
    cdef Progress *progress   # of each slot, where there is a form
    cdef uint8_t drive_id[DRIVE_ID_BYTES]
    cdef iovec vectors[IOV_LIMIT]

    def __init__(self, StateSegment state, GuestMemory memory, NativeBackend backend, bytes drive_id):
        self.state = state
        self.memory = memory
        self.backend = backend
        self.form = backend.form
        if self.form is not None:
            self.outcome_fd = self.form.ready_fd
            self.progress = <Progress *>calloc(state.slot_count, sizeof(Progress))
            if self.progress == NULL:
                raise MemoryError
        memset(self.drive_id, 0, DRIVE_ID_BYTES)
        memcpy(self.drive_id, <const char *>drive_id, min(len(drive_id), DRIVE_ID_BYTES))

    def __dealloc__(self):
        free(self.progress)

    cdef int execute(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Range *ranges = self.state.slot_ranges(slot_index) + slot.first_range
        cdef int error = 0
        slot.used_length_bytes = 1
        slot.status = STATUS_IOERR
        if self.memory.is_lost():   # what the request was read from may have been zeroes in place of the guest's bytes
            return OUTCOME_DONE
        if slot.operation == OPERATION_GET_ID:
            self._give_id(ranges, <uint32_t>slot.length_bytes)
        elif self.form is not None:
            self._begin_parts(slot_index)
            return OUTCOME_DONE if self._is_settled(slot_index) else OUTCOME_PENDING
        elif slot.operation == OPERATION_READ or slot.operation == OPERATION_WRITE:
            error = self._transfer(slot, ranges)
        elif slot.operation == OPERATION_FLUSH:
            error = self.backend.flush_all()
        else:
            error = self._change_segments(slot, <SectorRange *>ranges)
        self._settle(slot_index, error)
        return OUTCOME_DONE

    cdef void submit(self) noexcept nogil:
        self.has_unsubmitted = self.form.submit()

    cdef bint has_outcomes(self) noexcept nogil:
        return self.has_unsubmitted or self.form.has_outcomes()   # nobody sleeps before all of it is on its way

    cdef int reap(self) noexcept nogil:
        cdef StorageOutcome outcome
        cdef Progress *progress
        if self.has_unsubmitted:
            self.submit()
        while self.form.reap(&outcome):
            progress = &self.progress[outcome.tag]
            progress.left -= 1
            if progress.error == 0:
                progress.error = outcome.result
            if self._is_settled(<uint32_t>outcome.tag):
                return <int>outcome.tag
        return -1

    cdef bint begin(self, uint32_t slot_index, AsyncForm form) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef StorageRequest request
        if self.memory.is_lost():
            return False
        if slot.operation == OPERATION_FLUSH:
            request.operation = STORAGE_FLUSH
            request.range_count = 0
        elif slot.operation == OPERATION_READ or slot.operation == OPERATION_WRITE:
            if slot.range_count > IOV_LIMIT or slot.flags & SLOT_PARTIAL:
                return False
            request.operation = STORAGE_READ if slot.operation == OPERATION_READ else STORAGE_WRITE
            request.range_count = slot.range_count
            self._fill_vectors(self.vectors, self.state.slot_ranges(slot_index) + slot.first_range, slot.range_count)
        else:
            return False
        request.tag = slot_index
        request.ranges = self.vectors
        request.offset_bytes = slot.offset_bytes
        request.length_bytes = slot.length_bytes
        request.is_durable = slot.flags & SLOT_DURABLE
        return form.begin(&request) == 0

    cdef bint end(self, uint32_t slot_index, int result) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        if result < 0 or self.memory.is_lost():
            return False
        slot.used_length_bytes = 1
        if slot.operation == OPERATION_READ:
            slot.used_length_bytes += <uint32_t>slot.length_bytes
        slot.status = STATUS_OK
        return True

    cdef void fail(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        slot.used_length_bytes = slot.has_last_byte
        slot.status = STATUS_IOERR

    cdef void finish(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        if slot.has_last_byte:
            self.memory.pointer(&slot.last_byte)[0] = <uint8_t>slot.status

    cdef void _settle(self, uint32_t slot_index, int error) noexcept nogil:
        """Set the outcome of an operation that has ended."""
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        if error == -EFAULT and (slot.operation == OPERATION_READ or slot.operation == OPERATION_WRITE):
            self.memory.look_at(self.state.slot_ranges(slot_index) + slot.first_range, slot.range_count)
        if self.memory.is_lost():
            return
        if error:
            self.last_error = error
            self.last_error_slot = slot_index
            return
        slot.status = STATUS_OK
        if slot.operation == OPERATION_READ or slot.operation == OPERATION_GET_ID:
            slot.used_length_bytes += <uint32_t>slot.length_bytes

    cdef bint _is_settled(self, uint32_t slot_index) noexcept nogil:
        """Whether nothing of a request is under way any more; its outcome is set then.

        What is to be durable and no write is flushed in the end.
        """
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Progress *progress = &self.progress[slot_index]
        if progress.left == 0 and progress.error == 0 and slot.flags & SLOT_DURABLE and not progress.is_flushed \
                and (slot.operation == OPERATION_DISCARD or slot.operation == OPERATION_WRITE_ZEROES):
            progress.is_flushed = True
            self._begin_flush(slot_index, progress)
            self.submit()
        if progress.left:
            return False
        self._settle(slot_index, progress.error)
        return True

    cdef void _begin_parts(self, uint32_t slot_index) noexcept nogil:
        cdef Progress *progress = &self.progress[slot_index]
        cdef uint32_t operation = self.state.slots[slot_index].operation
        memset(progress, 0, sizeof(Progress))
        if operation == OPERATION_READ or operation == OPERATION_WRITE:
            self._begin_transfer(slot_index, progress)
        elif operation == OPERATION_FLUSH:
            self._begin_flush(slot_index, progress)
        else:
            self._begin_segments(slot_index, progress)

    cdef void _begin_transfer(self, uint32_t slot_index, Progress *progress) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Range *ranges = self.state.slot_ranges(slot_index) + slot.first_range
        cdef StorageRequest part
        cdef uint32_t done = 0
        memset(&part, 0, sizeof(part))
        part.tag = slot_index
        part.operation = STORAGE_READ if slot.operation == OPERATION_READ else STORAGE_WRITE
        part.ranges = self.vectors
        part.offset_bytes = slot.offset_bytes
        part.is_durable = slot.flags & SLOT_DURABLE
        while done < slot.range_count:
            part.range_count = <int>min(slot.range_count - done, <uint32_t>IOV_LIMIT)
            part.length_bytes = self._fill_vectors(self.vectors, ranges + done, <uint32_t>part.range_count)
            self._begin_part(&part, progress)
            part.offset_bytes += part.length_bytes
            done += <uint32_t>part.range_count

    cdef void _begin_segments(self, uint32_t slot_index, Progress *progress) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef SectorRange *segments = <SectorRange *>(self.state.slot_ranges(slot_index) + slot.first_range)
        cdef StorageRequest part
        cdef uint32_t index
        memset(&part, 0, sizeof(part))
        part.tag = slot_index
        part.operation = STORAGE_DISCARD if slot.operation == OPERATION_DISCARD else STORAGE_WRITE_ZEROES
        for index in range(slot.range_count):
            part.offset_bytes = segments[index].sector * SECTOR_BYTES
            part.length_bytes = <uint64_t>segments[index].num_sectors * SECTOR_BYTES
            part.may_unmap = segments[index].flags & SEGMENT_F_UNMAP
            self._begin_part(&part, progress)

    cdef void _begin_flush(self, uint32_t slot_index, Progress *progress) noexcept nogil:
        cdef StorageRequest part
        memset(&part, 0, sizeof(part))
        part.tag = slot_index
        part.operation = STORAGE_FLUSH
        self._begin_part(&part, progress)

    cdef void _begin_part(self, StorageRequest *part, Progress *progress) noexcept nogil:
        cdef int result = self.form.begin(part)
        if result == 0:
            progress.left += 1
            return
        if result == -EOPNOTSUPP:
            result = self._carry_out(part)
        if progress.error == 0:
            progress.error = result

    cdef int _carry_out(self, StorageRequest *part) noexcept nogil:
        """A part that the asynchronous form does not take, by the blocking one."""
        if part.operation == STORAGE_READ:
            return self.backend.readv_at(part.ranges, part.range_count, part.offset_bytes, part.length_bytes)
        if part.operation == STORAGE_WRITE:
            return self.backend.writev_at(part.ranges, part.range_count, part.offset_bytes, part.length_bytes,
                                          part.is_durable)
        if part.operation == STORAGE_FLUSH:
            return self.backend.flush_all()
        if part.operation == STORAGE_DISCARD:
            return self.backend.discard_at(part.offset_bytes, part.length_bytes)
        return self.backend.write_zeroes_at(part.offset_bytes, part.length_bytes, part.may_unmap)

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

    cdef int _change_segments(self, RequestSlot *slot, SectorRange *segments) noexcept nogil:
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
