# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A disk that reports whatever it should never have been asked for."""

import os

from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memset
from posix.uio cimport iovec

from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.block.request cimport SECTOR_BYTES

cdef enum:
    EIO = 5
    READ_PATTERN = 0x5A


cdef class RacingBackend(NativeBackend):
    """Takes transfers within `size_bytes` from and to the window [`window_start`, `window_end`) of guest memory.

    Everything else is a line in the file `report`, and fails.
    """

    cdef str report
    cdef uint64_t window_start
    cdef uint64_t window_end
    cdef const uint8_t *mapping_start    # of guest memory in this process, as last looked up
    cdef const uint8_t *mapping_end
    cdef uint64_t mapping_offset
    cdef uint64_t sum_bytes

    def __init__(self, size_bytes: int, window_start: int, window_end: int, report: str):
        self.size_bytes = size_bytes
        self.window_start = window_start
        self.window_end = window_end
        self.report = report

    cdef int _tell(self, str what) except -1:
        with open(self.report, "a") as file:
            file.write(f"{os.getpid()}: {what}\n")
        return 0

    cdef bint _place(self, const uint8_t *address) noexcept nogil:
        """Find the mapping of guest memory around an address."""
        if self.mapping_start <= address < self.mapping_end:
            return True
        with gil:
            try:
                return self._look_up(<uint64_t>address)
            except BaseException:
                return False

    cdef bint _look_up(self, uint64_t address) except -1:
        with open("/proc/self/maps") as maps:
            for line in maps:
                if "guest-ram" not in line:
                    continue
                start, end = (int(word, 16) for word in line.split()[0].split("-"))
                if start <= address < end:
                    self.mapping_start = <const uint8_t *><uint64_t>start
                    self.mapping_end = <const uint8_t *><uint64_t>end
                    self.mapping_offset = int(line.split()[2], 16)
                    return True
        return False

    cdef int _check(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                    uint64_t length_bytes) noexcept nogil:
        cdef int index, result = self._check_place(offset_bytes, length_bytes)
        cdef uint64_t start, size_bytes = 0
        for index in range(range_count):
            size_bytes += ranges[index].iov_len
            start = 0
            if self._place(<const uint8_t *>ranges[index].iov_base):
                start = <uint64_t>(<const uint8_t *>ranges[index].iov_base - self.mapping_start) + self.mapping_offset
            if start < self.window_start or start > self.window_end \
                    or ranges[index].iov_len > self.window_end - start:
                with gil:
                    self._tell(f"{ranges[index].iov_len} bytes at {start:#x} of guest memory")
                result = -EIO
        if size_bytes != length_bytes:
            with gil:
                self._tell(f"{size_bytes} bytes of memory for {length_bytes} of disk")
            result = -EIO
        return result

    cdef int _check_place(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        if offset_bytes % SECTOR_BYTES or length_bytes % SECTOR_BYTES or length_bytes > self.size_bytes \
                or offset_bytes > self.size_bytes - length_bytes:
            with gil:
                self._tell(f"{length_bytes} bytes at {offset_bytes} of the disk")
            return -EIO
        return 0

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        cdef int index, result = self._check(ranges, range_count, offset_bytes, length_bytes)
        if result == 0:
            for index in range(range_count):
                memset(ranges[index].iov_base, READ_PATTERN, ranges[index].iov_len)
        return result

    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil:
        cdef int index, result = self._check(ranges, range_count, offset_bytes, length_bytes)
        if result == 0:
            for index in range(range_count):
                self.sum_bytes += (<const uint8_t *>ranges[index].iov_base)[0]
        return result

    cdef int discard_at(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        return self._check_place(offset_bytes, length_bytes)

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes, bint may_unmap) noexcept nogil:
        return self._check_place(offset_bytes, length_bytes)


def make(size_bytes: int, window_start: int, window_end: int, report: str):
    """`--backend=racing_backend:make`. (A compiled constructor has no annotations to convert by.)"""
    return RacingBackend(size_bytes, window_start, window_end, report)
