# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A disk in memory that has an asynchronous form only, and is done with requests later, in another order.

Each process that uses it has a thread that carries out what was begun, and an eventfd of its own.
"""

import mmap
import os
import queue
import random
import threading
import time

from libc.errno cimport EIO, EOPNOTSUPP
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.workers.backends.asynchronous cimport (
    STORAGE_READ, STORAGE_WRITE_ZEROES, AsyncForm, StorageOutcome, StorageRequest,
)
from ringblk.workers.backends.native cimport NativeBackend

DELAY_S = 0.0003


cdef class LateForm(AsyncForm):
    """Requests wait in `begun` until `submit`, then for the thread; what is done in `done` until it is reaped."""

    cdef uint8_t *memory
    cdef object begun, submitted, done, thread, refused
    cdef uint32_t done_count      # of `done`, to be read without the GIL
    cdef uint64_t failing_offset_bytes
    cdef uint32_t full_count      # calls of `submit` that find no room

    def __init__(self, view, uint64_t failing_offset_bytes, refused, uint32_t full_count):
        self.memory = address_of(view)
        self.failing_offset_bytes = failing_offset_bytes
        self.refused = refused
        self.full_count = full_count
        self.ready_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.begun, self.done, self.submitted = [], [], queue.SimpleQueue()
        self.thread = None

    def serve(self):
        """The thread: take what was submitted so far, and do it in any order."""
        shuffled = random.Random(os.getpid())
        while True:
            work = list(self.submitted.get())
            while not self.submitted.empty():
                work += self.submitted.get()
            shuffled.shuffle(work)
            for tag, operation, offset_bytes, length_bytes, ranges in work:
                time.sleep(shuffled.random() * DELAY_S)
                result = self.carry_out(operation, offset_bytes, length_bytes, ranges)
                self.done.append((tag, result))
                self.done_count = len(self.done)
                os.eventfd_write(self.ready_fd, 1)

    def carry_out(self, int operation, uint64_t offset_bytes, uint64_t length_bytes, list ranges):
        cdef uint8_t *place = self.memory + offset_bytes
        if offset_bytes <= self.failing_offset_bytes < offset_bytes + length_bytes:
            return -EIO
        if operation == STORAGE_WRITE_ZEROES:
            memset(place, 0, length_bytes)
        for address, size_bytes in ranges:
            if operation == STORAGE_READ:
                memcpy(<void *><uint64_t>address, place, size_bytes)
            else:
                memcpy(place, <void *><uint64_t>address, size_bytes)
            place += <uint64_t>size_bytes
        return 0

    cdef int begin(self, const StorageRequest *request) noexcept nogil:
        with gil:
            if int(request.operation) in self.refused:
                return -EOPNOTSUPP
            ranges = [(<uint64_t>request.ranges[index].iov_base, request.ranges[index].iov_len)
                      for index in range(request.range_count)]
            self.begun.append((request.tag, int(request.operation), request.offset_bytes, request.length_bytes, ranges))
            return 0

    cdef bint submit(self) noexcept nogil:
        with gil:
            if self.thread is None:   # a thread that began sooner would be outside of the sandbox
                self.thread = threading.Thread(target=self.serve, daemon=True)
                self.thread.start()
            if self.full_count:
                self.full_count -= 1
                return True
            if self.begun:
                self.submitted.put(self.begun)
                self.begun = []
        return False

    cdef bint has_outcomes(self) noexcept nogil:
        return self.done_count != 0

    cdef bint reap(self, StorageOutcome *outcome) noexcept nogil:
        with gil:
            if not self.done:
                try:
                    os.eventfd_read(self.ready_fd)   # what is done from now on writes it anew
                except BlockingIOError:
                    pass
                if not self.done:
                    return False
            tag, result = self.done.pop()
            self.done_count = len(self.done)
            outcome.tag = tag
            outcome.result = result
            return True


cdef class LateDisk(NativeBackend):
    """`failing_offset_bytes`: requests on this byte fail. `refused`: operations left to a blocking form.

    `full_count`: how often `submit` says that it has to be called again.
    """

    cdef readonly object view
    cdef object failing_offset_bytes, refused, full_count

    def __init__(self, size_bytes, failing_offset_bytes=None, refused=(), full_count=0):
        self.view = memoryview(mmap.mmap(-1, size_bytes))
        self.size_bytes = size_bytes
        self.failing_offset_bytes = (1 << 64) - 1 if failing_offset_bytes is None else failing_offset_bytes
        self.refused = refused
        self.full_count = full_count

    def start_worker(self):
        self.form = LateForm(self.view, self.failing_offset_bytes, self.refused, self.full_count)

    def start_dispatcher(self):
        self.start_worker()

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes, bint may_unmap) noexcept nogil:
        with gil:
            self.view[offset_bytes : offset_bytes + length_bytes] = bytes(length_bytes)
        return 0


def make(size_bytes: int, failing_offset_bytes: int = -1, full_count: int = 0):
    """`--backend=late_disk:make`. (A compiled constructor has no annotations to convert by.)"""
    failing = None if failing_offset_bytes < 0 else failing_offset_bytes
    return LateDisk(size_bytes, failing, full_count=full_count)
