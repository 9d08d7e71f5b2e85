# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A piece of guest memory that requests read from or write to."""

from cpython.buffer cimport PyObject_GetBuffer
from libc.stdint cimport uint64_t


cdef class Buffer:
    """Guest memory for the data of requests, without a copy on either side.

    It is a buffer itself (`bytes(buffer)`, `memoryview(buffer)`, `numpy.frombuffer(buffer)`); `gpa` is its
    guest physical address. Get one from `Frontend.allocate`, and release it, or use it in a `with` block.
    Memory of a buffer that is released while requests use it becomes free when the last of them is done.
    """

    def __init__(self, memory, view: memoryview, gpa: int):
        self._memory = memory
        self._view = view
        self.gpa = gpa
        self.size_bytes = view.nbytes

    @property
    def view(self) -> memoryview:
        """The bytes, to read and to write."""
        return self._view

    def __len__(self) -> int:
        return self.size_bytes

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyObject_GetBuffer(self._view, buffer, flags)

    def part(self, start: int, size_bytes: int) -> Buffer:
        """A buffer of some of these bytes. It needs no release, and is not for use after this one's."""
        if start < 0 or size_bytes < 0 or start + size_bytes > self.size_bytes:
            raise ValueError(f"{size_bytes} bytes at {start} of a buffer of {self.size_bytes} bytes")
        cdef Buffer part = Buffer(None, self._view[start : start + size_bytes], self.gpa + start)
        part._whole = self
        return part

    def release(self) -> None:
        """Give the memory back. May be called again."""
        if not self.released:
            self.released = True
            if self.inflight_count == 0:
                self._free()

    def _free(self) -> None:
        if self._memory is not None:
            self._memory.free(self.gpa)

    cdef void take(self):
        self.inflight_count += 1
        if self._whole is not None:
            self._whole.take()

    cdef void give_back(self):
        self.inflight_count -= 1
        if self.released and self.inflight_count == 0:
            self._free()
        if self._whole is not None:
            self._whole.give_back()

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"Buffer(gpa={self.gpa:#x}, size_bytes={self.size_bytes})"
