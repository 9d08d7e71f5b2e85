"""Guest memory as the front end makes it: a shared-memory segment without a name, and an allocator in it."""

import bisect
import contextlib
import mmap
import os
import secrets
import threading
from collections import deque

from ringblk.engine.frontend.buffer import Buffer
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.platform.shared_memory import create_named, reserve, unlink_named

PAGE_BYTES = 4096
UVA_OFFSET = 0x7000_0000_0000
"""Not zero, so that a back end that takes one kind of address for the other finds out."""


class FrontendMemory:
    """A region of guest memory in POSIX shared memory, unlinked at birth so that nothing can be left behind.

    Its bytes are handed out by allocate() first fit, and adjacent free pieces become one again. Threads may
    use it side by side. Raises OSError when the system has not that much shared memory.
    """

    def __init__(self, size_bytes: int, gpa: int) -> None:
        self.size_bytes = _align_up(size_bytes, PAGE_BYTES)
        self.gpa = gpa
        self.fd = _create_segment(self.size_bytes)
        self.mapping = mmap.mmap(self.fd, self.size_bytes)
        self._view = memoryview(self.mapping)
        self._free = [(0, self.size_bytes)]  # (offset, size) of free pieces, by offset, never adjacent
        self._allocated: dict[int, int] = {}  # size by offset
        self._lock = threading.Lock()  # holds what follows from one look at the pieces together
        self._returned: deque[int] = deque()  # what free() took back while another thread had the lock

    @property
    def region(self) -> MemoryRegion:
        """How a back end is told of it."""
        return MemoryRegion(self.gpa, self.size_bytes, uva=self.uva(self.gpa), mmap_offset_bytes=0)

    @staticmethod
    def uva(gpa: int) -> int:
        """What is called the front end's virtual address. Only the back end's arithmetic ever uses it."""
        return gpa + UVA_OFFSET

    def allocate(self, size_bytes: int, align: int = 512) -> Buffer:
        """Take size_bytes at an address that is a multiple of align. Raises MemoryError when none is free."""
        if size_bytes <= 0 or align <= 0:
            raise ValueError(f"cannot allocate {size_bytes} bytes aligned to {align}")
        if self.fd < 0:
            raise ValueError("the front end is closed")
        with self._lock:
            return self._take(size_bytes, align)

    def _take(self, size_bytes: int, align: int) -> Buffer:
        self._put_back()
        for position, (start, free_bytes) in enumerate(self._free):
            offset = _align_up(self.gpa + start, align) - self.gpa
            end = start + free_bytes
            if offset + size_bytes <= end:
                rest = [(start, offset - start), (offset + size_bytes, end - offset - size_bytes)]
                self._free[position : position + 1] = [piece for piece in rest if piece[1]]
                self._allocated[offset] = size_bytes
                return Buffer(self, self._view[offset : offset + size_bytes], self.gpa + offset)
        raise MemoryError(f"no {size_bytes} bytes free of {self.size_bytes} bytes of guest memory")

    def free(self, gpa: int) -> None:
        """Take back what allocate() gave out at this address. Never waits: a finalizer may call it."""
        self._returned.append(gpa - self.gpa)
        if self._lock.acquire(blocking=False):
            try:
                self._put_back()
            finally:
                self._lock.release()

    def _put_back(self) -> None:
        while self._returned:
            self._put_back_piece(self._returned.popleft())

    def _put_back_piece(self, offset: int) -> None:
        size_bytes = self._allocated.pop(offset)
        position = bisect.bisect_left(self._free, (offset, 0))
        first = last = position
        end = offset + size_bytes
        if position and sum(self._free[position - 1]) == offset:
            first, offset = position - 1, self._free[position - 1][0]
        if position < len(self._free) and self._free[position][0] == end:
            last, end = position + 1, sum(self._free[position])
        self._free[first:last] = [(offset, end - offset)]

    @property
    def free_bytes(self) -> int:
        """How many bytes are not allocated, in one piece or in several."""
        with self._lock:
            self._put_back()
            return sum(size_bytes for _, size_bytes in self._free)

    def close(self) -> None:
        """Let go of the memory. Buffers that are still held keep their bytes until they are gone too."""
        if self.fd < 0:
            return
        with contextlib.suppress(BufferError):
            self._view.release()
            self.mapping.close()
        os.close(self.fd)
        self.fd = -1

    def abandon(self) -> None:
        """In a forked child: let go of the descriptor; the mapping is what its buffers lie in."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _create_segment(size_bytes: int) -> int:
    name = f"ringblk-guest-{secrets.token_hex(8)}"
    fd = create_named(name)
    try:
        unlink_named(name)
        os.ftruncate(fd, size_bytes)
        reserve(fd, 0, size_bytes)  # too little shared memory is an error now, not SIGBUS later
    except OSError:
        os.close(fd)
        raise
    return fd


def _align_up(value: int, align: int) -> int:
    return -(-value // align) * align
