# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""An io_uring: requests to the kernel and their completions through rings in shared memory.

A child uses a ring that was made before it was forked, and the supervisor has that ring too. That is the fence for what a killed child had submitted: its direct I/O may still be on its way to the disk after the process
was reaped, but each submission posts exactly one completion, and the kernel posts it to the ring that the
supervisor holds. When as many were posted as were submitted, nothing can land any more (`is_idle`).
"""

import os

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from ringblk.shm.platform.uring_calls cimport (
    IORING_ENTER_GETEVENTS, IORING_FEAT_SINGLE_MMAP, IORING_OFF_SQ_RING, IORING_OFF_SQES, IORING_OP_FSYNC, IORING_OP_POLL_ADD,
    IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE, IORING_OP_WRITEV, IORING_REGISTER_ENABLE_RINGS,
    IORING_REGISTER_RESTRICTIONS, IORING_RESTRICTION_SQE_OP, IORING_SETUP_COOP_TASKRUN, IORING_SETUP_R_DISABLED,
    IORING_SETUP_SUBMIT_ALL, IORING_SETUP_TASKRUN_FLAG, IORING_SQ_TASKRUN, io_uring_restriction, keep_from_forks,
    uring_enter, uring_register, uring_setup,
)
from ringblk.shm.sync.atomic cimport load_acquire_32, store_release_32


cdef enum:
    OPERATION_COUNT = 6

cdef uint8_t[OPERATION_COUNT] OPERATIONS = [
    IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_POLL_ADD,
]


cdef class Uring:
    """A ring of `entry_count` (a power of two) submissions. Raises `OSError` where the kernel has none.

    It takes the operations that requests and waiting need and no other: what goes through a ring passes by the filter of
    system calls.
    """

    def __cinit__(self, uint32_t entry_count):
        cdef io_uring_params params
        self.fd = -1
        if entry_count == 0:   # `attach` does the rest
            return
        self.fd = make_ring(entry_count, &params)
        if self.fd < 0:
            raise OSError(-self.fd, f"io_uring: {os.strerror(-self.fd)}")
        self.layout = (<const char *>&params)[:sizeof(params)]
        self.map_rings(&params)

    @staticmethod
    def attach(int fd, bytes layout):
        """The ring that another process has made, by its descriptor, which is this object's from then on, and its `layout`.

        Raises `OSError`. One process at a time may use a ring.
        """
        cdef io_uring_params params
        cdef Uring ring
        if len(layout) != sizeof(params):
            raise ValueError(f"a ring's layout has {sizeof(params)} bytes, not {len(layout)}")
        ring = Uring.__new__(Uring, 0)
        memcpy(&params, <const char *>layout, sizeof(params))
        ring.fd = fd
        ring.layout = layout
        ring.map_rings(&params)
        return ring

    cdef int map_rings(self, const io_uring_params *described) except -1:
        """Map what the kernel has described."""
        cdef io_uring_params params = described[0]
        cdef uint32_t index
        cdef uint32_t *order
        self.entry_count = params.sq_entries
        self.rings_bytes = max(params.sq_off.array + params.sq_entries * sizeof(uint32_t),
                               params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe))
        self.rings = <uint8_t *>mmap(NULL, self.rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd,
                                     IORING_OFF_SQ_RING)
        self.entries = <io_uring_sqe *>mmap(NULL, params.sq_entries * sizeof(io_uring_sqe), PROT_READ | PROT_WRITE,
                                            MAP_SHARED, self.fd, IORING_OFF_SQES)
        if self.rings == MAP_FAILED or self.entries == MAP_FAILED or not params.features & IORING_FEAT_SINGLE_MMAP:
            raise OSError("io_uring: cannot map the rings")
        # A process that is forked from this one has the rings by their descriptor or not at all: what it inherited
        # would outlive this object.
        keep_from_forks(self.rings, self.rings_bytes)
        keep_from_forks(self.entries, self.entry_count * sizeof(io_uring_sqe))
        self.sq_head = <uint32_t *>(self.rings + params.sq_off.head)
        self.sq_tail = <uint32_t *>(self.rings + params.sq_off.tail)
        self.sq_flags = <uint32_t *>(self.rings + params.sq_off.flags)
        self.cq_head = <uint32_t *>(self.rings + params.cq_off.head)
        self.cq_tail = <uint32_t *>(self.rings + params.cq_off.tail)
        self.sq_mask = params.sq_entries - 1
        self.cq_mask = params.cq_entries - 1
        self.completions = <io_uring_cqe *>(self.rings + params.cq_off.cqes)
        order = <uint32_t *>(self.rings + params.sq_off.array)
        for index in range(params.sq_entries):
            order[index] = index   # entries are submitted in the order in which they are filled
        return 0

    def __dealloc__(self):
        if self.rings != NULL and self.rings != MAP_FAILED:
            munmap(self.rings, self.rings_bytes)
        if self.entries != NULL and self.entries != MAP_FAILED:
            munmap(self.entries, self.entry_count * sizeof(io_uring_sqe))
        if self.fd >= 0:
            close(self.fd)

    def fileno(self):
        """The ring's descriptor; the process that uses the ring must keep it open."""
        return self.fd

    @property
    def is_idle(self):
        """Whether every submission that the kernel took has completed; nothing can land any more."""
        return load_acquire_32(self.sq_head) == load_acquire_32(self.cq_tail)

    cdef io_uring_sqe *next_entry(self) noexcept nogil:
        """A zeroed entry to fill, or NULL when all are waiting to be submitted."""
        cdef io_uring_sqe *entry
        # Acquire: pairs with the kernel's release of the head after it has read an entry.
        if self.local_tail - load_acquire_32(self.sq_head) > self.sq_mask:
            return NULL
        entry = &self.entries[self.local_tail & self.sq_mask]
        memset(entry, 0, sizeof(io_uring_sqe))
        self.local_tail += 1
        return entry

    cdef bint take_completion(self, io_uring_cqe *completion) noexcept nogil:
        """Take the oldest completion; False when there is none."""
        cdef uint32_t head = self.cq_head[0]
        # Acquire: pairs with the kernel's release of the tail after it has written the completion.
        if head == load_acquire_32(self.cq_tail):
            return False
        completion[0] = self.completions[head & self.cq_mask]
        store_release_32(self.cq_head, head + 1)   # pairs with the kernel's acquire before it reuses the place
        return True

    cdef bint has_completions(self) noexcept nogil:
        """Whether there is a completion, or one that the next `enter` makes appear."""
        # Acquire: both pair with the kernel's release after it has written the completion, or queued its work.
        return self.cq_head[0] != load_acquire_32(self.cq_tail) \
            or load_acquire_32(self.sq_flags) & IORING_SQ_TASKRUN

    cdef int enter(self, uint32_t min_complete) noexcept nogil:
        """Submit what was filled and wait for so many completions; 0 or a negative errno (not -EINTR)."""
        cdef uint32_t to_submit = self.local_tail - load_acquire_32(self.sq_head)
        cdef int result
        store_release_32(self.sq_tail, self.local_tail)   # pairs with the kernel's acquire of the tail
        result = uring_enter(self.fd, to_submit, min_complete, IORING_ENTER_GETEVENTS)
        if result < 0 and errno != EINTR:
            return -errno
        return 0


cdef int make_ring(uint32_t entry_count, io_uring_params *params) noexcept nogil:
    """The descriptor of a new ring that takes `OPERATIONS` only, or a negative errno (io_uring_register(2))."""
    cdef io_uring_restriction restrictions[OPERATION_COUNT]
    cdef int index, fd, error
    memset(params, 0, sizeof(io_uring_params))
    params.flags = (IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG
                    | IORING_SETUP_R_DISABLED)
    fd = uring_setup(entry_count, params)
    if fd < 0:
        return -errno
    memset(restrictions, 0, sizeof(restrictions))
    for index in range(OPERATION_COUNT):
        restrictions[index].opcode = IORING_RESTRICTION_SQE_OP
        restrictions[index].sqe_op = OPERATIONS[index]
    if uring_register(fd, IORING_REGISTER_RESTRICTIONS, restrictions, OPERATION_COUNT) < 0 or \
            uring_register(fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0:
        error = errno
        close(fd)
        return -error
    return fd
