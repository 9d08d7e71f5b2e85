# libraries: rbd rados
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The asynchronous form of an RBD image: librbd's own requests, whose ends a wake-up descriptor tells of."""

import os

from libc.errno cimport EIO, ENOMEM, EOPNOTSUPP
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from ringblk.shm.platform.wakeup_fd cimport drain_wakeup
from ringblk.workers.backends.asynchronous cimport (
    STORAGE_DISCARD, STORAGE_FLUSH, STORAGE_READ, STORAGE_WRITE, STORAGE_WRITE_ZEROES,
)
from ringblk.workers.rbd.client cimport rbd_image_t

from ringblk.shm.platform.wakeups import IS_EVENTFD, make_wakeup

cdef extern from "<rbd/librbd.h>" nogil:
    ctypedef void *rbd_completion_t
    ctypedef void (*rbd_callback_t)(rbd_completion_t completion, void *argument)
    enum: EVENT_TYPE_EVENTFD, EVENT_TYPE_PIPE, RBD_WRITE_ZEROES_FLAG_THICK_PROVISION
    int rbd_set_image_notification(rbd_image_t image, int fd, int kind)
    int rbd_poll_io_events(rbd_image_t image, rbd_completion_t *completions, int count)
    int rbd_aio_create_completion(void *argument, rbd_callback_t callback, rbd_completion_t *completion)
    void *rbd_aio_get_arg(rbd_completion_t completion)
    ssize_t rbd_aio_get_return_value(rbd_completion_t completion)
    void rbd_aio_release(rbd_completion_t completion)
    int rbd_aio_readv(rbd_image_t image, const iovec *ranges, int count, uint64_t offset, rbd_completion_t completion)
    int rbd_aio_writev(rbd_image_t image, const iovec *ranges, int count, uint64_t offset, rbd_completion_t completion)
    int rbd_aio_flush(rbd_image_t image, rbd_completion_t completion)
    int rbd_aio_discard(rbd_image_t image, uint64_t offset, uint64_t length, rbd_completion_t completion)
    int rbd_aio_write_zeroes(rbd_image_t image, uint64_t offset, size_t length, rbd_completion_t completion,
                             int zero_flags, int operation_flags)


cdef class RbdForm(AsyncForm):
    """Of an image that is open. Without librbd's cache a write that is done is durable. Raises `OSError`."""

    def __init__(self, RbdImage image):
        cdef int result
        self.image = image
        self.ready_fd = make_wakeup()
        result = rbd_set_image_notification(image.image, self.ready_fd, EVENT_TYPE_EVENTFD if IS_EVENTFD else EVENT_TYPE_PIPE)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    cdef int begin(self, const StorageRequest *request) noexcept nogil:
        cdef RbdRequest *own = self._new_request(request.range_count)
        cdef rbd_completion_t completion = NULL
        cdef int result
        if own == NULL:
            return -ENOMEM
        own.tag = request.tag
        own.length_bytes = request.length_bytes if request.operation == STORAGE_READ else 0
        result = rbd_aio_create_completion(own, NULL, &completion)
        if result >= 0:
            result = self._start(request, own, completion)
            if result < 0:
                rbd_aio_release(completion)
        if result < 0:
            self._free_request(own)
            return result if result != -EOPNOTSUPP else -EIO
        self.under_way += 1
        return 0

    cdef int _start(self, const StorageRequest *request, RbdRequest *own, void *completion) noexcept nogil:
        cdef rbd_image_t image = self.image.image
        if request.operation == STORAGE_FLUSH:
            return rbd_aio_flush(image, completion)
        if request.operation == STORAGE_DISCARD:
            return rbd_aio_discard(image, request.offset_bytes, request.length_bytes, completion)
        if request.operation == STORAGE_WRITE_ZEROES:
            return rbd_aio_write_zeroes(image, request.offset_bytes, request.length_bytes, completion,
                                        0 if request.may_unmap else RBD_WRITE_ZEROES_FLAG_THICK_PROVISION, 0)
        memcpy(own.ranges, request.ranges, request.range_count * sizeof(iovec))
        if request.operation == STORAGE_READ:
            return rbd_aio_readv(image, own.ranges, request.range_count, request.offset_bytes, completion)
        return rbd_aio_writev(image, own.ranges, request.range_count, request.offset_bytes, completion)

    cdef bint submit(self) noexcept nogil:
        return False

    cdef bint has_outcomes(self) noexcept nogil:
        return self.taken_place < self.taken_count

    cdef bint reap(self, StorageOutcome *outcome) noexcept nogil:
        cdef RbdRequest *own
        cdef ssize_t result
        if self.taken_place == self.taken_count:
            if self.under_way == 0:
                return False
            self.taken_place = 0
            drain_wakeup(self.ready_fd)   # what ends from now on writes it anew
            self.taken_count = max(rbd_poll_io_events(self.image.image, self.taken, TAKEN_AT_ONCE), 0)
            if self.taken_count == 0:
                return False
        own = <RbdRequest *>rbd_aio_get_arg(self.taken[self.taken_place])
        result = rbd_aio_get_return_value(self.taken[self.taken_place])
        rbd_aio_release(self.taken[self.taken_place])
        self.taken_place += 1
        self.under_way -= 1
        outcome.tag = own.tag
        outcome.result = 0
        if result < 0:
            outcome.result = <int>result
        elif own.length_bytes and <uint64_t>result != own.length_bytes:
            outcome.result = -EIO   # the image has become shorter
        self._free_request(own)
        return True

    cdef RbdRequest *_new_request(self, int range_count) noexcept nogil:
        """One with room for so many ranges; NULL: there is no memory."""
        cdef RbdRequest *own = self.free_requests
        cdef iovec *ranges
        if own == NULL:
            own = <RbdRequest *>calloc(1, sizeof(RbdRequest))
            if own == NULL:
                return NULL
        else:
            self.free_requests = own.next
        if range_count > own.range_capacity:
            ranges = <iovec *>realloc(own.ranges, range_count * sizeof(iovec))
            if ranges == NULL:
                self._free_request(own)
                return NULL
            own.ranges = ranges
            own.range_capacity = range_count
        return own

    cdef void _free_request(self, RbdRequest *own) noexcept nogil:
        own.next = self.free_requests
        self.free_requests = own

    def __dealloc__(self):
        cdef RbdRequest *own
        while self.free_requests != NULL:
            own = self.free_requests
            self.free_requests = own.next
            free(own.ranges)
            free(own)
