# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The base of every block backend that the pump calls: compiled, without the GIL, negative errno.

Native backends implement the five C methods of the .pxd, `readv_at` and `writev_at` at least: the blocking form.
They may have an asynchronous form as well, `form` (asynchronous.pyx), or that alone. On top of the blocking one stands the `BlockBackend` protocol of interface.py, so every native backend can be used from Python
too. That boundary is the one place where a negative errno becomes an OSError.

Nobody asks what class a backend is: it answers for itself. What a request costs nothing to know is an attribute
of the .pxd (`fd`, `block_size_bytes`); the rest is asked once, at the start (`waiting`, `identity`, `image_lock`...).
"""

import os

from cpython.buffer cimport (
    Py_buffer, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.errno cimport EOPNOTSUPP, EROFS
from libc.stdint cimport uint8_t, uint64_t
from posix.uio cimport iovec

from ringblk.workers.backends.asynchronous cimport STORAGE_FLUSH, StorageRequest

from ringblk.workers.backends.answers import DirectIo, Waiting
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.topology import SECTOR_BYTES, BlockTopology

cdef extern from * nogil:
    """
    #define RINGBLK_ZERO_BYTES 65536
    /* Never written. Aligned for direct I/O on any device. */
    static unsigned char ringblk_zeroes[RINGBLK_ZERO_BYTES] __attribute__((aligned(4096)));
    """
    enum: ZERO_BYTES "RINGBLK_ZERO_BYTES"
    uint8_t *zeroes "ringblk_zeroes"

cdef enum:
    ZERO_RANGES = 16  # ranges per write of zeroes: all of them show the same zeroes
    MAX_RANGES = 1024  # IOV_MAX


cdef class NativeBackend:
    """A block backend that works without the GIL.

    `size_bytes` is a multiple of 512. `block_size_bytes` is what requests should be multiples of, in
    offset and length; others are carried out too, but a write of a part of a block may be done by reading
    the block, changing it and writing it back. So that is in which order requests must go: nothing else may
    change such a block meanwhile. The dispatcher sees to it (engine/dispatcher/overlap_list.pyx), no backend
    locks. `topology` is what the guest is told of the storage.
    """

    def __cinit__(self):
        self.block_size_bytes = SECTOR_BYTES
        self.fd = -1
        self.topology = BlockTopology()

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        """Fill the ranges from the backend, completely or not with success."""
        return -EOPNOTSUPP

    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil:
        """Write the ranges; where durable, they are on stable storage when this returns."""
        return -EOPNOTSUPP

    cdef int flush_all(self) noexcept nogil:
        """Bring every write that has returned to stable storage."""
        return 0

    cdef int discard_at(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        """Give the space back. Advisory (virtio 1.2, 5.2.6): 0 where nothing can be done."""
        return 0

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes,
                             bint may_unmap) noexcept nogil:
        """Make the range read as zeroes; here by writing them. `may_unmap` allows giving the space back."""
        cdef iovec ranges[ZERO_RANGES]
        cdef uint64_t chunk_bytes, filled_bytes
        cdef int range_count, result
        while length_bytes:
            chunk_bytes = 0
            range_count = 0
            while range_count < ZERO_RANGES and chunk_bytes < length_bytes:
                filled_bytes = min(length_bytes - chunk_bytes, <uint64_t>ZERO_BYTES)
                ranges[range_count].iov_base = zeroes
                ranges[range_count].iov_len = filled_bytes
                range_count += 1
                chunk_bytes += filled_bytes
            result = self.writev_at(ranges, range_count, offset_bytes, chunk_bytes, False)
            if result < 0:
                return result
            offset_bytes += chunk_bytes
            length_bytes -= chunk_bytes
        return 0

    cdef bint is_aligned(self, const iovec *ranges, int range_count, uint64_t offset_bytes) noexcept nogil:
        return True

    cdef int uring_fd(self, const StorageRequest *request) noexcept nogil:
        if request.operation == STORAGE_FLUSH or (request.operation < STORAGE_FLUSH and self.is_aligned(
                request.ranges, request.range_count, request.offset_bytes)):
            return self.fd
        return -1

    cdef int note_written(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        return 0

    cdef int check_range(self, uint64_t offset_bytes, uint64_t length_bytes) except -1:
        if length_bytes > self.size_bytes or offset_bytes > self.size_bytes - length_bytes:
            raise ValueError(f"{length_bytes} bytes at {offset_bytes} lie outside {self.size_bytes}")
        return 0

    cdef int check_write(self, uint64_t offset_bytes, uint64_t length_bytes) except -1:
        self.check_range(offset_bytes, length_bytes)
        return raise_error(-EROFS if self.read_only else 0)

    # The BlockBackend protocol. The GIL stays held throughout: a backend's scratch memory belongs to one
    # thread of a process, and so these calls can't overlap.

    def read_at(self, uint64_t offset_bytes, buffer):
        """Fill a writable buffer from `offset_bytes` on; ValueError if outside, OSError if it fails."""
        self.read_ranges(offset_bytes, (buffer,))

    def write_at(self, uint64_t offset_bytes, buffer, *, bint durable=False):
        """Write a buffer at `offset_bytes`; ValueError if outside, OSError if it fails."""
        self.write_ranges(offset_bytes, (buffer,), durable=durable)

    def read_ranges(self, uint64_t offset_bytes, buffers):
        """Fill writable buffers one after the other, as one request of at most 1024 ranges."""
        cdef BufferList ranges = BufferList(buffers, True)
        self.check_range(offset_bytes, ranges.length_bytes)
        raise_error(self.readv_at(ranges.ranges, ranges.count, offset_bytes, ranges.length_bytes))

    def write_ranges(self, uint64_t offset_bytes, buffers, *, bint durable=False):
        """Write buffers one after the other, as one request of at most 1024 ranges."""
        cdef BufferList ranges = BufferList(buffers, False)
        self.check_write(offset_bytes, ranges.length_bytes)
        raise_error(self.writev_at(ranges.ranges, ranges.count, offset_bytes, ranges.length_bytes, durable))

    def flush(self):
        """Bring every write that has returned to stable storage."""
        raise_error(self.flush_all())

    def discard(self, uint64_t offset_bytes, uint64_t size_bytes):
        """Give the space back where that is possible; what the range reads as then is undefined."""
        self.check_write(offset_bytes, size_bytes)
        raise_error(self.discard_at(offset_bytes, size_bytes))

    def write_zeroes(self, uint64_t offset_bytes, uint64_t size_bytes, *, bint may_unmap=False):
        """Make the range read as zeroes."""
        self.check_write(offset_bytes, size_bytes)
        raise_error(self.write_zeroes_at(offset_bytes, size_bytes, may_unmap))

    # What the engine asks at its start.

    def waiting(self):
        """How long a request may hold up who makes it (`Waiting`); who asks may have to wait for the answer."""
        return Waiting(reason="the backend may block")

    def direct_io(self):
        """Whether I/O goes past the host's page cache, and why (`DirectIo`)."""
        return DirectIo(False, "no image")

    def identity(self):
        """What tells this storage from other on this host (`StorageIdentity`).

        None where nothing does but what the backend was made with.
        """
        return None

    def image_lock(self):
        """What keeps other programs off the storage (`ImageLock`); None where nothing does."""
        return None

    @property
    def is_image(self):
        """Whether it serves the bytes of an image that others make, and that may be in a format which is not raw."""
        return False

    @property
    def image(self):
        """The backend that serves the bytes of an image: this one or one that it reads from; None: there is none."""
        return self if self.is_image else None

    @property
    def layered(self):
        """This backend, if it has layers that may change while it is used (`LayeredBackend`); else None."""
        return None

    @property
    def fds(self):
        """The descriptors that all its processes have in common, where it has opened no other."""
        return () if self.fd < 0 else (self.fd,)

    @property
    def outlives_engine(self):
        """Whether what was written is there when the engine's processes have ended."""
        return True

    @property
    def system_calls(self):
        """Which system calls requests on it need, besides those of any process; names as in syscalls(2)."""
        return ""

    @property
    def reachable_paths(self):
        """Files and folders that its processes open while they serve; all else they have open before."""
        return ()

    def hand_over(self):
        """What to tell a process that runs already, and the descriptors to send it along (`opening.take_backend`).

        They stay this backend's. Raises `BackendError` where it can only be inherited.
        """
        raise BackendError("this backend is for processes that are forked once it was made")

    def use(self, found, fds):
        """Go on with other storage, which the same engine has prepared; `fds` are its descriptors by name.

        Nothing is in flight. Raises `BackendError` where there is no such thing.
        """
        raise BackendError("this backend's storage is always the same")

    def prepare_process(self, name):
        """Open what a process needs that is about to be forked; gives the descriptors that it is to keep.

        Called where the backend was made. `name` is "worker 3" or "dispatcher": one process after the other has it.
        """
        return ()

    def is_fenced(self, name):
        """Whether nothing can land any more that the last process of this name began, which was reaped.

        Asked again and again until it is so, and never waits. Blocking calls end with their process; who has sent
        something to a server or a device asks that. (An io_uring is a fence of its own.)
        """
        return True

    @property
    def keeps_worker(self):
        """Whether a worker is to be there whenever a guest is: a backend whose workers take long to start."""
        return False

    @property
    def worker_limit(self):
        """How many workers it can have, whatever the drive may; None: any number."""
        return None

    @property
    def reachable_ports(self):
        """Ports of TCP that its processes connect to while they serve."""
        return ()

    def start_worker(self):
        """Called once in each worker after the fork, before its first request and before it is in its sandbox.

        What has to be opened after the fork is opened here, and `form` is made.
        """

    def start_dispatcher(self):
        """The same in a dispatcher that is to carry out requests itself."""

    def confine_process(self):
        """Keep this process to the storage, beyond what a sandbox does that knows no storage; it is in that then."""

    def resize(self, uint64_t size_bytes):
        """Make the drive larger or smaller, where the backend can; nothing is in flight beyond a new end.

        The supervisor calls it. Other processes' `size_bytes` stay as they are: what requests are checked
        against is the capacity in the state segment. Raises BackendError or OSError.
        """
        raise BackendError("this backend has a fixed size")

    def measure(self):
        """The size that the storage has now, which somebody else may have changed, in bytes."""
        return self.size_bytes

    @property
    def news_fd(self):
        """A descriptor that is readable once the storage has another size (`measure`); -1: nobody would tell.

        It is an eventfd, which who reads it empties.
        """
        return -1

    def connection(self):
        """How it stands with the server that keeps the bytes (`ServerConnection`); None: there is no server."""
        return None

    @property
    def saves_at_close(self):
        """Whether `close` brings to the disk what was written: `save` does so before, where nobody else waits."""
        return False

    def save(self):
        """Have `close` find nothing to be brought to the disk; no request may follow. Raises `OSError`."""

    def close(self):
        """Let go of what the backend holds in this process; no request may follow."""


cdef int raise_error(int result) except -1:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return 0


cdef class BufferList:
    """The iovecs of a sequence of buffers, held for the length of one request."""

    cdef iovec ranges[MAX_RANGES]
    cdef Py_buffer views[MAX_RANGES]
    cdef int count
    cdef uint64_t length_bytes

    def __init__(self, buffers, bint writable):
        cdef int flags = PyBUF_SIMPLE | PyBUF_WRITABLE if writable else PyBUF_SIMPLE
        for buffer in buffers:
            if self.count == MAX_RANGES:
                raise ValueError(f"a request has at most {MAX_RANGES} ranges")
            PyObject_GetBuffer(buffer, &self.views[self.count], flags)
            self.ranges[self.count].iov_base = self.views[self.count].buf
            self.ranges[self.count].iov_len = self.views[self.count].len
            self.length_bytes += self.views[self.count].len
            self.count += 1

    def __dealloc__(self):
        cdef int index
        for index in range(self.count):
            PyBuffer_Release(&self.views[index])
