# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The asynchronous form that io_uring gives to every backend with descriptors (`NativeBackend.uring_fd`).

The ring is made before the fork and kept by the parent as a fence (workers/uring/ring.pyx). It may watch an
eventfd and the other end of a channel besides, so that one call waits for completions and whoever wakes this
process.
"""

from libc.errno cimport EAGAIN, EOPNOTSUPP
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.uio cimport iovec

from ringblk.shm.platform.uring_calls cimport (
    IORING_FSYNC_DATASYNC, IORING_OP_FSYNC, IORING_OP_POLL_ADD, IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE, IORING_OP_WRITEV,
    RWF_DSYNC, io_uring_cqe, io_uring_sqe,
)
from ringblk.shm.sync.atomic cimport load_acquire_32
from ringblk.workers.backends.asynchronous cimport (
    STORAGE_FLUSH, STORAGE_READ, STORAGE_WRITE, StorageOutcome, StorageRequest,
)
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.uring.ring cimport Uring

cdef enum:
    VECTOR_LIMIT = 128    # ranges of a request that goes through the ring

cdef uint64_t WAKE_MARK = <uint64_t>-1   # user data of the read of the eventfd
cdef uint64_t END_MARK = <uint64_t>-2    # of the look at the channel's other end


cdef class UringForm(AsyncForm):
    """As many places as `uring` has entries but two, which are left for the eventfd and the channel's end.

    What finds no place, is not aligned or very scattered is for the blocking form; so is what failed here or fell
    short: that continues short transfers, and knows the error.
    """

    def __init__(self, Uring uring, NativeBackend backend, int channel_fd=-1):
        cdef uint32_t place
        self.uring = uring
        self.backend = backend
        self.ready_fd = uring.fd
        self.channel_fd = channel_fd
        self.depth = uring.entry_count - 2
        self.vectors = <iovec *>calloc(self.depth * VECTOR_LIMIT, sizeof(iovec))
        self.places = <Place *>calloc(self.depth, sizeof(Place))
        self.free_places = <uint32_t *>calloc(self.depth, sizeof(uint32_t))
        if self.vectors == NULL or self.places == NULL or self.free_places == NULL:
            raise MemoryError
        for place in range(self.depth):
            self.free_places[place] = self.depth - 1 - place
        self.free_count = self.depth

    def __dealloc__(self):
        free(self.vectors)
        free(self.places)
        free(self.free_places)

    cdef int begin(self, const StorageRequest *request) noexcept nogil:
        cdef uint32_t place
        cdef io_uring_sqe *entry
        cdef int fd
        if self.free_count == 0 or request.operation > STORAGE_FLUSH or request.range_count > VECTOR_LIMIT \
                or (request.operation != STORAGE_FLUSH and request.range_count == 0):
            return -EOPNOTSUPP
        fd = self.backend.uring_fd(request)
        if fd < 0:
            return -EOPNOTSUPP
        place = self.free_places[self.free_count - 1]
        entry = self.uring.next_entry()   # there is one: places are fewer than entries
        entry.fd = fd
        if request.operation == STORAGE_FLUSH:
            entry.opcode = IORING_OP_FSYNC
            entry.fsync_flags = IORING_FSYNC_DATASYNC
        else:
            entry.off = request.offset_bytes
            if request.range_count == 1:
                entry.opcode = IORING_OP_READ if request.operation == STORAGE_READ else IORING_OP_WRITE
                entry.addr = <uint64_t>request.ranges.iov_base
                entry.len = <uint32_t>request.ranges.iov_len
            else:
                memcpy(self.vectors + place * VECTOR_LIMIT, request.ranges, request.range_count * sizeof(iovec))
                entry.opcode = IORING_OP_READV if request.operation == STORAGE_READ else IORING_OP_WRITEV
                entry.addr = <uint64_t>(self.vectors + place * VECTOR_LIMIT)
                entry.len = <uint32_t>request.range_count
            if request.operation == STORAGE_WRITE and request.is_durable:
                entry.rw_flags = RWF_DSYNC
        entry.user_data = place
        self.places[place].tag = request.tag
        self.places[place].offset_bytes = request.offset_bytes
        self.places[place].is_write = request.operation == STORAGE_WRITE
        self.places[place].length_bytes = 0 if request.operation == STORAGE_FLUSH else request.length_bytes
        self.free_count -= 1
        return 0

    cdef bint submit(self) noexcept nogil:
        """True: the kernel had no memory for all of it."""
        if self.uring.local_tail != load_acquire_32(self.uring.sq_head):
            self.uring.enter(0)
        return self.uring.local_tail != load_acquire_32(self.uring.sq_head)

    cdef bint has_outcomes(self) noexcept nogil:
        return self.uring.has_completions()

    cdef bint reap(self, StorageOutcome *outcome) noexcept nogil:
        cdef io_uring_cqe completion
        cdef uint32_t place
        cdef bint has_entered = False
        while True:
            if self.uring.take_completion(&completion):
                if completion.user_data < END_MARK:
                    break
                if completion.user_data == WAKE_MARK:
                    self.is_watching = False
                else:
                    self.is_watching_end, self.has_hung_up = False, completion.res > 0
            elif has_entered or not self.uring.has_completions():
                return False
            else:
                self.uring.enter(0)   # what the kernel has queued for this process becomes completions
                has_entered = True
        place = <uint32_t>completion.user_data
        self.free_places[self.free_count] = place
        self.free_count += 1
        outcome.tag = self.places[place].tag
        if completion.res < 0:
            outcome.result = completion.res
        else:
            outcome.result = 0 if <uint64_t>completion.res == self.places[place].length_bytes else -EAGAIN
        if outcome.result == 0 and self.places[place].is_write:
            outcome.result = self.backend.note_written(self.places[place].offset_bytes, self.places[place].length_bytes)
        return True

    cdef void wait(self, int eventfd, bint has_work) noexcept nogil:
        """Submit what was begun; unless there is other work, wait until something is done or the eventfd is written."""
        self._watch(eventfd)
        self._watch_end()
        self.uring.enter(0 if has_work else 1)

    cdef void _watch_end(self) noexcept nogil:
        """Have a completion posted when the channel's other end is closed."""
        cdef io_uring_sqe *entry
        if self.channel_fd < 0 or self.is_watching_end or self.has_hung_up:
            return
        entry = self.uring.next_entry()
        if entry == NULL:
            return   # as in _watch
        entry.opcode = IORING_OP_POLL_ADD   # of POLLHUP alone, which needs not be asked for
        entry.fd = self.channel_fd
        entry.user_data = END_MARK
        self.is_watching_end = True

    cdef void _watch(self, int eventfd) noexcept nogil:
        """Have a completion posted when the eventfd is written."""
        cdef io_uring_sqe *entry
        if self.is_watching:
            return
        entry = self.uring.next_entry()
        if entry == NULL:
            return   # never: places and this one are no more than entries, and those were submitted
        entry.opcode = IORING_OP_READ
        entry.fd = eventfd
        entry.addr = <uint64_t>&self.woken_count
        entry.len = sizeof(self.woken_count)
        entry.user_data = WAKE_MARK
        self.is_watching = True
