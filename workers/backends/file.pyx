# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A file or a block device as a drive: positioned I/O on one descriptor that all workers share.

No lock is taken: every call says where it reads or writes. With direct I/O an aligned request goes straight between
guest memory and the file. Any other goes through a bounce buffer, of which each process has its own, and a write that
begins or ends within a block reads that block first (see NativeBackend on what must not run beside it).
"""

import logging
import os
import stat

from libc.errno cimport EINTR, EIO, ENOMEM, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free
from posix.stdlib cimport posix_memalign
from posix.uio cimport iovec, preadv
from posix.unistd cimport close as close_fd

from ringblk.workers.files.file_calls cimport (
    device_discard, device_zero, is_unsupported, punch_hole, sync_data, write_ranges, write_ranges_durably, zero_range,
)
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.backends.range_cursor cimport Cursor, copy, skip

from ringblk.shm.platform.block_device import is_read_only
from ringblk.workers.backends import direct_io
from ringblk.workers.backends.answers import DirectIo
from ringblk.workers.backends.direct_open import size_of
from ringblk.workers.backends.file_identity import file_identity
from ringblk.workers.backends.file_waiting import file_waiting
from ringblk.workers.backends.image_lock import ImageLock
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.topology import device_topology, file_topology
from ringblk.workers.backends.image_open import name_of, open_image
from ringblk.workers.backends.open_storage import OpenFile
from ringblk.workers.sandbox.syscall_filter import FILE_CALLS

logger = logging.getLogger(__name__)

cdef enum:
    BOUNCE_BYTES = 1 << 20
    BOUNCE_ALIGN_BYTES = 4096


cdef class FileBackend(NativeBackend):
    """A regular file or a block device, by its path or a descriptor that is open on it already.

    A descriptor, given as a number or as `/dev/fd/N`, stays the caller's: the file is opened once more. `direct` is
    "on", "off", or "auto": direct where the file system takes it. `block_size_bytes` is what direct I/O wants
    offsets and lengths to be multiples of, and a block device's logical block size. What a size has beyond whole
    logical blocks is not served, and never written to. Raises BackendError, which names the file, if it can't be
    opened or used as asked.
    """

    def __init__(self, path, *, bint read_only=False, str direct="auto"):
        self.read_only = read_only
        self.direct_mode = direct
        self.fd = open_image(path, read_only)
        try:
            self.inspect(name_of(path), direct)
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        free(self.bounce)
        if self.fd >= 0:
            close_fd(self.fd)  # for who forgot close(); no Python, which may be half gone by then

    def inspect(self, path, direct):
        """Find out size and alignment, and turn on direct I/O as asked."""
        mode = os.fstat(self.fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise BackendError(f"{path}: neither a regular file nor a block device")
        self.is_block_device = stat.S_ISBLK(mode)
        try:
            if self.is_block_device:
                self.topology = device_topology(self.fd)
                self.block_size_bytes = self.topology.logical_block_bytes
                if not self.read_only and is_read_only(self.fd):
                    raise BackendError(f"{path}: is a read-only device")
            size_bytes = size_of(self.fd)
            self.size_bytes = self.measure()
        except OSError as error:
            raise BackendError(f"{path}: can't tell its size: {error.strerror or error}") from error
        if self.size_bytes == 0:
            raise BackendError(f"{path}: is empty" if size_bytes == 0 else f"{path}: has only {size_bytes} bytes")
        if size_bytes != self.size_bytes:
            logger.warning("%s: the guest does not see the last %d bytes: no whole block of %d", path,
                           size_bytes - self.size_bytes, self.topology.logical_block_bytes)
        self.memory_alignment_bytes = 1
        if direct in ("auto", "on"):
            self.make_direct(path, direct == "on")
        elif direct != "off":
            raise BackendError(f"{path}: direct is {direct!r}, not 'auto', 'on' or 'off'")
        if not self.is_block_device:
            self.topology = file_topology(self.fd, self.preferred_alignment())

    def resize(self, uint64_t size_bytes):
        """Cut a regular file off or extend it, with a hole; a block device only has to be large enough."""
        if self.is_block_device:
            if size_bytes > self.measure():
                raise BackendError(f"the device has {self.measure()} bytes")
        else:
            if self.read_only:
                raise BackendError("the file is open for reading only")
            os.ftruncate(self.fd, size_bytes)
        self.size_bytes = size_bytes

    def measure(self):
        """The size of the file or device now, in whole logical blocks."""
        size_bytes = size_of(self.fd)
        return size_bytes - size_bytes % self.topology.logical_block_bytes

    def preferred_alignment(self):
        """What direct I/O asks for on this file, used or not."""
        if self.direct:
            return self.offset_mask + 1
        stated = direct_io.read_statx_alignment(self.fd)
        return stated.offset_bytes if stated else 0

    def make_direct(self, path, bint required):
        """Turn on direct I/O; where it is refused, BackendError if it is required, a log line if not."""
        try:
            alignment = direct_io.set_direct_for_size(self.fd, self.size_bytes)
        except OSError as error:
            if required:
                raise BackendError(f"{path}: can't have direct I/O: {error.strerror or error}") from error
            direct_io.warn_of_refusal(logger, f"{path}: can't have direct I/O: {error.strerror or error}; going on without")
            self.direct_refusal = error.strerror or str(error)
            return
        self.direct = True
        self.block_size_bytes = max(self.block_size_bytes, alignment.offset_bytes)
        self.memory_alignment_bytes = alignment.memory_bytes
        self.offset_mask = alignment.offset_bytes - 1
        self.memory_mask = alignment.memory_bytes - 1

    def waiting(self):
        """By the file system it is on, else by reading a little of it."""
        return file_waiting(self.fd, self.size_bytes, is_direct=self.direct)

    def direct_io(self):
        """As it was asked for and granted."""
        if self.direct:
            return DirectIo(True, "asked for" if self.direct_mode == "on" else "the file system takes it")
        return DirectIo(False, "not asked for" if self.direct_mode == "off" else f"refused: {self.direct_refusal}")

    def identity(self):
        """The file's or the device's."""
        return file_identity(self.fd)

    def image_lock(self):
        """The open file description's, which all workers share (image_lock.py)."""
        return ImageLock(self.fd, self.read_only)

    @property
    def is_image(self):
        """It is one."""
        return True

    @property
    def system_calls(self):
        """All that are made here."""
        return FILE_CALLS

    def hand_over(self):
        """All that was found out, and the descriptor. One of a class that is made from it is inherited only."""
        if type(self) is not FileBackend:
            return NativeBackend.hand_over(self)
        return OpenFile(
            size_bytes=self.size_bytes,
            read_only=self.read_only,
            is_block_device=self.is_block_device,
            direct=self.direct,
            direct_mode=self.direct_mode,
            direct_refusal=self.direct_refusal,
            block_size_bytes=self.block_size_bytes,
            offset_alignment_bytes=self.offset_mask + 1,
            memory_alignment_bytes=self.memory_alignment_bytes,
            topology=self.topology,
        ), (self.fd,)

    @staticmethod
    def take(found, int fd):
        """The same of what another process has handed over: `fd` is this backend's from now on."""
        cdef FileBackend backend = FileBackend.__new__(FileBackend)
        backend.be_file(found, fd)
        return backend

    cdef be_file(self, found, int fd):
        self.fd = fd
        self.size_bytes = found.size_bytes
        self.read_only = found.read_only
        self.is_block_device = found.is_block_device
        self.direct, self.direct_mode, self.direct_refusal = found.direct, found.direct_mode, found.direct_refusal
        self.block_size_bytes = found.block_size_bytes
        self.offset_mask = found.offset_alignment_bytes - 1
        self.memory_alignment_bytes, self.memory_mask = found.memory_alignment_bytes, found.memory_alignment_bytes - 1
        self.topology = found.topology

    def fileno(self):
        """The descriptor that all workers share; -1 once closed."""
        return self.fd

    def close(self):
        """Close the descriptor in this process."""
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            os.close(fd)

    cdef bint is_aligned(self, const iovec *ranges, int range_count, uint64_t offset_bytes) noexcept nogil:
        cdef uint64_t offset_bits = offset_bytes
        cdef uint64_t memory_bits = 0
        cdef int index
        for index in range(range_count):
            memory_bits |= <uint64_t>ranges[index].iov_base
            offset_bits |= ranges[index].iov_len
        return (offset_bits & self.offset_mask) == 0 and (memory_bits & self.memory_mask) == 0

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        if length_bytes == 0:
            return 0
        if self.is_aligned(ranges, range_count, offset_bytes):
            return self.transfer(ranges, range_count, offset_bytes, False, False)
        return self.transfer_bounced(ranges, offset_bytes, length_bytes, False, False)

    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil:
        cdef int result
        if length_bytes == 0:
            return 0
        if self.is_aligned(ranges, range_count, offset_bytes):
            result = self.transfer(ranges, range_count, offset_bytes, True, durable)
        else:
            result = self.transfer_bounced(ranges, offset_bytes, length_bytes, True, durable)
        if result == 0 and durable and self.durable_refused:
            return self.flush_all()
        return result

    cdef int transfer(self, const iovec *ranges, int range_count, uint64_t offset_bytes, bint writing,
                      bint durable) noexcept nogil:
        """Read or write all of the ranges; what the kernel leaves undone is asked for again."""
        cdef Cursor cursor = Cursor(ranges, 0)
        cdef const iovec *end = ranges + range_count
        cdef iovec rest
        cdef ssize_t count
        while cursor.range < end:
            if cursor.offset_bytes:
                rest.iov_base = <uint8_t *>cursor.range.iov_base + cursor.offset_bytes
                rest.iov_len = cursor.range.iov_len - cursor.offset_bytes
                count = self.transfer_some(&rest, 1, offset_bytes, writing, durable)
            else:
                count = self.transfer_some(cursor.range, <int>(end - cursor.range), offset_bytes, writing,
                                           durable)
            if count < 0:
                return <int>count
            if count == 0:
                return -EIO  # the end of a file that is shorter than it was
            offset_bytes += count
            skip(&cursor, end, count)
        return 0

    cdef ssize_t transfer_some(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                               bint writing, bint durable) noexcept nogil:
        """One system call, repeated when interrupted: the bytes done or a negative errno."""
        cdef ssize_t count
        while True:
            if not writing:
                count = preadv(self.fd, ranges, range_count, offset_bytes)
            elif durable and not self.durable_refused:
                count = write_ranges_durably(self.fd, ranges, range_count, offset_bytes)
                if count < 0 and (errno == EOPNOTSUPP or errno == ENOSYS):
                    self.durable_refused = True
                    continue
            else:
                count = write_ranges(self.fd, ranges, range_count, offset_bytes)
            if count >= 0:
                return count
            if errno != EINTR:
                return -errno

    cdef int transfer_bounced(self, const iovec *ranges, uint64_t offset_bytes, uint64_t length_bytes,
                              bint writing, bint durable) noexcept nogil:
        """Read or write by whole blocks through the bounce buffer."""
        cdef uint64_t end_bytes = offset_bytes + length_bytes
        cdef uint64_t last_bytes = (end_bytes + self.offset_mask) & ~self.offset_mask
        cdef uint64_t chunk_start = offset_bytes & ~self.offset_mask
        cdef uint64_t chunk_end, data_start, data_end
        cdef Cursor cursor = Cursor(ranges, 0)
        cdef int result
        if self.bounce is NULL and posix_memalign(<void **>&self.bounce, BOUNCE_ALIGN_BYTES, BOUNCE_BYTES):
            self.bounce = NULL
            return -ENOMEM
        while chunk_start < last_bytes:
            chunk_end = min(last_bytes, chunk_start + <uint64_t>BOUNCE_BYTES)
            data_start = max(chunk_start, offset_bytes)
            data_end = min(chunk_end, end_bytes)
            if writing:
                result = self.read_edges(chunk_start, chunk_end, data_start, data_end)
                if result < 0:
                    return result
                copy(&cursor, self.bounce + (data_start - chunk_start), data_end - data_start, False)
            result = self.transfer_bounce(0, chunk_start, chunk_end - chunk_start, writing, durable)
            if result < 0:
                return result
            if not writing:
                copy(&cursor, self.bounce + (data_start - chunk_start), data_end - data_start, True)
            chunk_start = chunk_end
        return 0

    cdef int read_edges(self, uint64_t start_bytes, uint64_t end_bytes, uint64_t data_start_bytes,
                        uint64_t data_end_bytes) noexcept nogil:
        """Read the first and the last block of a chunk, where the data cover only a part of it."""
        cdef uint64_t block_bytes = self.offset_mask + 1
        cdef int result = 0
        if data_start_bytes > start_bytes:
            result = self.transfer_bounce(0, start_bytes, block_bytes, False, False)
            if end_bytes - start_bytes == block_bytes:
                return result
        if result == 0 and data_end_bytes < end_bytes:
            result = self.transfer_bounce(end_bytes - block_bytes - start_bytes, end_bytes - block_bytes,
                                          block_bytes, False, False)
        return result

    cdef int transfer_bounce(self, uint64_t bounce_offset_bytes, uint64_t offset_bytes, uint64_t length_bytes,
                             bint writing, bint durable) noexcept nogil:
        cdef iovec data
        data.iov_base = self.bounce + bounce_offset_bytes
        data.iov_len = length_bytes
        return self.transfer(&data, 1, offset_bytes, writing, durable)

    cdef int flush_all(self) noexcept nogil:
        while sync_data(self.fd) != 0:
            if errno != EINTR:
                return -errno
        return 0

    cdef int discard_at(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        """Punch a hole; on a block device discard the whole logical blocks of the range."""
        cdef uint64_t block_mask = self.block_size_bytes - 1
        cdef uint64_t start_bytes = offset_bytes
        cdef uint64_t end_bytes = offset_bytes + length_bytes
        cdef int result
        if self.is_block_device:
            start_bytes = (offset_bytes + block_mask) & ~block_mask
            end_bytes = end_bytes & ~block_mask
        while start_bytes < end_bytes:
            if self.is_block_device:
                result = device_discard(self.fd, start_bytes, end_bytes - start_bytes)
            else:
                result = punch_hole(self.fd, start_bytes, end_bytes - start_bytes)
            if result == 0 or is_unsupported(errno):
                return 0
            if errno != EINTR:
                return -errno
        return 0

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes,
                             bint may_unmap) noexcept nogil:
        """Have the kernel write the zeroes where it can, a block device's partial blocks excepted."""
        cdef uint64_t block_mask = self.block_size_bytes - 1
        cdef uint64_t end_bytes = offset_bytes + length_bytes
        cdef uint64_t inner_start = offset_bytes
        cdef uint64_t inner_end = end_bytes
        cdef int result
        if self.is_block_device:
            inner_start = (offset_bytes + block_mask) & ~block_mask
            inner_end = end_bytes & ~block_mask
        if inner_start >= inner_end:
            return NativeBackend.write_zeroes_at(self, offset_bytes, length_bytes, False)
        result = self.write_zeroes_inside(inner_start, inner_end - inner_start, may_unmap)
        if is_unsupported(-result):
            return NativeBackend.write_zeroes_at(self, offset_bytes, length_bytes, False)
        if result == 0 and inner_start > offset_bytes:
            result = NativeBackend.write_zeroes_at(self, offset_bytes, inner_start - offset_bytes, False)
        if result == 0 and end_bytes > inner_end:
            result = NativeBackend.write_zeroes_at(self, inner_end, end_bytes - inner_end, False)
        return result

    cdef int write_zeroes_inside(self, uint64_t offset_bytes, uint64_t length_bytes,
                                 bint may_unmap) noexcept nogil:
        """One call to the kernel; a hole only where the space may be given back."""
        cdef bint wants_hole = may_unmap
        cdef int result = -1
        while True:
            if wants_hole:
                result = punch_hole(self.fd, offset_bytes, length_bytes)
                wants_hole = result == 0 or not is_unsupported(errno)
            if not wants_hole:
                if self.is_block_device:
                    result = device_zero(self.fd, offset_bytes, length_bytes)
                else:
                    result = zero_range(self.fd, offset_bytes, length_bytes)
            if result == 0:
                return 0
            if errno != EINTR:
                return -errno
