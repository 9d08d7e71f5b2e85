"""Reading and writing a descriptor that may be anything: a pipe, a terminal, a socket, a file.

The kernel may take or give less than was asked for, and nothing at all where somebody has made the open file
description non-blocking (which all who share it share).
"""

import io
import os
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class PipeReader(io.RawIOBase):
    """A descriptor as a raw stream that waits for data; its beginning can be looked at. Closes nothing."""

    def __init__(self, fd: int) -> None:
        """Read `fd` from where it stands."""
        super().__init__()
        self._fd = fd
        self._head = b""

    def readable(self) -> bool:
        """Return True: it is a stream for reading."""
        return True

    def peek_head(self, size_bytes: int) -> bytes:
        """Return what comes next, so many bytes of it unless it ends before. Raises OSError."""
        while len(self._head) < size_bytes:
            piece = bytearray(size_bytes - len(self._head))
            read_bytes = self._read(memoryview(piece))
            if read_bytes == 0:
                break
            self._head += piece[:read_bytes]
        return self._head[:size_bytes]

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read at least one byte into `buffer`; 0 at the end. Raises OSError."""
        target = memoryview(buffer).cast("B")
        if not self._head:
            return self._read(target)
        taken = min(len(target), len(self._head))
        target[:taken] = self._head[:taken]
        self._head = self._head[taken:]
        return taken

    def _read(self, target: memoryview) -> int:
        while True:
            try:
                return os.readv(self._fd, [target])
            except BlockingIOError:
                _wait(self._fd, select.POLLIN)


class PipeWriter(io.RawIOBase):
    """A descriptor as a raw stream that writes all it is given, waiting for a slow reader. Closes nothing."""

    def __init__(self, fd: int) -> None:
        """Write to `fd` from where it stands."""
        super().__init__()
        self._fd = fd

    def writable(self) -> bool:
        """Return True: it is a stream for writing."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._fd)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write all of `data`. Raises OSError."""
        whole = memoryview(data).cast("B")
        write_fully(self._fd, whole)
        return len(whole)


def write_fully(fd: int, data: memoryview) -> None:
    """Write all of `data`, waiting for a reader that is slow. Raises OSError."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            _wait(fd, select.POLLOUT)


def _wait(fd: int, event: int) -> None:
    waiting = select.poll()
    waiting.register(fd, event)
    waiting.poll()
