# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Shared memory that may be lost under the one who uses it, without killing him.

A front end can truncate a file that it has shared, or share more than its file system has room for. Touching a
page of it that is not there is a SIGBUS (mmap(2)). So each process that uses such a mapping guards it: the
handler puts zeroes in the place of all of the mapping, sets a bit in the state segment that says which it was,
and lets the instruction go on. Whoever works with the memory asks for that bit before it believes what it
read. A fault anywhere else is none of ours and does what it did before.

The handler does nothing but compare addresses, one mmap, which is a bare system call, and one atomic
operation. Where nothing faults, a guard costs nothing.
"""

from cpython.buffer cimport Py_buffer, PyBuffer_FillInfo
from libc cimport errno as c_errno
from libc.errno cimport ENOMEM
from libc.signal cimport raise_
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, munmap,
)
from posix.signal cimport SA_SIGINFO, sigaction, sigaction_t, siginfo_t
from posix.types cimport off_t

from ringblk.shm.sync.atomic cimport full_fence, set_bits_64
from ringblk.shm.layout.region_set cimport REGION_LIMIT
from ringblk.shm.state.segment cimport QUEUE_LIMIT, StateHeader, StateSegment, note_lost_region

import mmap
import os

cdef extern from "signal.h" nogil:
    int SIGBUS

cdef extern from "sys/mman.h" nogil:
    int MAP_NORESERVE
    void *c_mmap "mmap"(void *address, size_t length, int protection, int flags, int fd, off_t offset)

cdef enum:
    GUARD_LIMIT = REGION_LIMIT + 3 * QUEUE_LIMIT   # and in-flight regions: each queue may still use an old one


cdef struct Guard:
    uint8_t *mapping         # NULL: none
    uint64_t size_bytes
    StateHeader *header      # where to say that it is lost,
    int region_index         # and of which region; a SharedPart, negative


cdef Guard guards[GUARD_LIMIT]
cdef sigaction_t former_action
cdef bint is_installed = False
cdef uint32_t guard_end = 0    # behind the last that was ever used


cdef int guard_mapping(uint8_t *mapping, uint64_t size_bytes, StateHeader *header, int region_index) noexcept nogil:
    """From now on a fault in the mapping makes it zeroes and is noted as the region's; 0 or -ENOMEM."""
    global is_installed, guard_end
    cdef sigaction_t action
    cdef uint32_t index
    if not is_installed:
        memset(&action, 0, sizeof(action))
        action.sa_sigaction = handle_fault
        action.sa_flags = SA_SIGINFO
        sigaction(SIGBUS, &action, &former_action)
        is_installed = True
    for index in range(<uint32_t>GUARD_LIMIT):
        if guards[index].mapping == NULL:
            guards[index].size_bytes = size_bytes
            guards[index].header = header
            guards[index].region_index = region_index
            guard_end = max(guard_end, index + 1)
            full_fence()   # the rest before what makes it count: a thread may fault meanwhile
            guards[index].mapping = mapping
            return 0
    return -ENOMEM


cdef void unguard_mapping(uint8_t *mapping) noexcept nogil:
    """Forget a mapping that is about to be unmapped."""
    cdef uint32_t index
    for index in range(guard_end):
        if guards[index].mapping == mapping:
            guards[index].mapping = NULL


cdef void handle_fault(int number, siginfo_t *info, void *context) noexcept nogil:
    """Give a lost mapping zeroes; leave every other fault to whoever handled it before."""
    cdef uint64_t address = <uint64_t>info.si_addr
    cdef int saved_errno = c_errno.errno
    cdef uint32_t index
    cdef Guard *guard
    for index in range(guard_end):
        guard = &guards[index]
        # si_code above 0: the kernel says so, and nobody has sent it.
        if info.si_code > 0 and guard.mapping != NULL and address - <uint64_t>guard.mapping < guard.size_bytes:
            if c_mmap(guard.mapping, guard.size_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED:
                break
            if guard.region_index < 0:
                set_bits_64(&guard.header.lost_parts, <uint64_t>-guard.region_index)
            else:
                note_lost_region(guard.header, <uint32_t>guard.region_index)
            c_errno.errno = saved_errno
            return
    sigaction(SIGBUS, &former_action, NULL)
    raise_(SIGBUS)   # held back until this handler has returned
    c_errno.errno = saved_errno


cdef uint8_t *map_shared(int fd, uint64_t size_bytes, uint64_t offset_bytes) noexcept nogil:
    """Map bytes of a file to read and write, shared; NULL and errno where that cannot be."""
    cdef void *mapping = c_mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                                <off_t>offset_bytes)
    return NULL if mapping == MAP_FAILED else <uint8_t *>mapping


cdef uint8_t *map_zeroes(uint64_t size_bytes) noexcept nogil:
    """Map zeroes of this process's own, for what cannot be mapped any more; NULL and errno without memory."""
    cdef void *mapping = c_mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if mapping == MAP_FAILED else <uint8_t *>mapping


INFLIGHT, LOG = PART_INFLIGHT, PART_LOG
_NAMES = {INFLIGHT: "the in-flight region", LOG: "the dirty log"}


cdef class GuardedPart:
    """The bytes of a part that a front end holds as well, `INFLIGHT` or `LOG`; a fault in it sets its bit of `lost_parts`.

    Offers the buffer protocol. Raises `OSError` where it cannot be mapped; with `or_lost` it is lost then.
    """

    cdef StateSegment state
    cdef uint8_t *mapping
    cdef uint64_t mapping_bytes
    cdef uint64_t before_bytes

    def __cinit__(self, StateSegment state, int part, int fd, size_bytes, offset_bytes, *, bint or_lost=False):
        cdef uint64_t start_bytes = offset_bytes - offset_bytes % mmap.PAGESIZE
        self.state = state
        self.before_bytes = offset_bytes - start_bytes
        self.mapping_bytes = self.before_bytes + size_bytes
        self.mapping = map_shared(fd, self.mapping_bytes, start_bytes)
        if self.mapping == NULL:
            error = c_errno.errno
            if or_lost:
                self.mapping = map_zeroes(self.mapping_bytes)
                set_bits_64(&state.header.lost_parts, <uint64_t>part)
            if self.mapping == NULL:
                raise OSError(error, f"{_NAMES[part]} cannot be mapped: {os.strerror(error)}")
        if guard_mapping(self.mapping, self.mapping_bytes, state.header, -part) < 0:
            raise OSError(ENOMEM, f"too many mappings like {_NAMES[part]}")

    def __dealloc__(self):
        if self.mapping != NULL:
            unguard_mapping(self.mapping)
            munmap(self.mapping, self.mapping_bytes)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.mapping + self.before_bytes, self.mapping_bytes - self.before_bytes, False,
                          flags)
