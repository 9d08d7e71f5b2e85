"""Reading a file from beginning to end past the page cache, ahead of the caller.

While the caller works on one aligned buffer, the next ones are read in the background. Holes are found with
SEEK_DATA and SEEK_HOLE and never read, so a sparse image costs what it holds.
"""

import errno
import io
import mmap
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.direct_open import open_direct

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 1 << 20
BUFFER_COUNT = 4  # one with the caller, and enough ahead that the disk need not wait for the caller to wake


class Span(NamedTuple):
    """A stretch of a file: `data` is good until the next span is asked for; None means zeroes (a hole)."""

    offset_bytes: int
    size_bytes: int
    data: memoryview | None


class _ReadAhead(NamedTuple):
    """A span that is ready when `filled` is done; a hole has no buffer and is ready."""

    span: Span
    buffer: memoryview | None
    filled: Future[None] | None


class DirectIoReader(io.RawIOBase):
    """A file, or block device, read in order past the page cache: by `spans`, or as a raw stream of bytes.

    Both move one position. For one thread at a time. The length is the file's when it was opened: what is
    appended meanwhile is not read, and a file that got shorter is an OSError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        direct: DirectMode = "auto",
        buffer_bytes: int = BUFFER_BYTES,
        buffer_count: int = BUFFER_COUNT,
    ) -> None:
        """Open `path`; `direct` as for DirectIoFile. Raises OSError."""
        super().__init__()
        opened = open_direct(path, os.O_RDONLY, direct)
        self._fd = opened.fd
        self._path = os.fspath(path)
        self.direct = opened.direct
        self.fallback_reason = opened.refusal
        self.alignment_bytes = opened.alignment_bytes
        if buffer_bytes % self.alignment_bytes or buffer_count < 1:
            os.close(self._fd)
            raise ValueError(
                f"buffer_bytes must be a multiple of {self.alignment_bytes}, and one buffer at least"
            )
        self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)  # of a block device too
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="direct-io-reader")
        self._spare = [memoryview(mmap.mmap(-1, buffer_bytes)) for _ in range(buffer_count)]
        self._buffer_bytes = buffer_bytes
        self._ahead: deque[_ReadAhead] = deque()
        self._planned = self._plan()
        self._given: memoryview | None = None  # the buffer that the caller holds a span of
        self._rest: Span | None = None  # what `readinto` has not taken of its span
        self._position_bytes = 0
        self._error: BaseException | None = None

    @property
    def position_bytes(self) -> int:
        """How much of the file the caller has been given."""
        return self._position_bytes

    def fileno(self) -> int:
        """Return the descriptor, to lock it or to look at it."""
        return self._fd

    def next_span(self) -> Span | None:
        """Return the next stretch, None at the end of the file. Raises a failed read's OSError, each time."""
        if self.closed:
            raise ValueError("the file is closed")
        if self._rest is not None:
            span, self._rest = self._rest, None
        else:
            taken = self._take()
            if taken is None:
                return None
            span = taken
        self._position_bytes = span.offset_bytes + span.size_bytes
        return span

    def spans(self) -> Iterator[Span]:
        """Give the rest of the file, stretch by stretch, as `next_span` does."""
        while (span := self.next_span()) is not None:
            yield span

    def readable(self) -> bool:
        """Return True: it is a stream for reading."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill `buffer` from what comes next, holes as zeroes; 0 at the end of the file."""
        target = memoryview(buffer).cast("B")
        if not target:
            return 0
        span = self.next_span()
        if span is None:
            return 0
        size_bytes = min(span.size_bytes, len(target))
        target[:size_bytes] = bytes(size_bytes) if span.data is None else span.data[:size_bytes]
        if size_bytes < span.size_bytes:
            rest = None if span.data is None else span.data[size_bytes:]
            self._rest = Span(span.offset_bytes + size_bytes, span.size_bytes - size_bytes, rest)
        self._position_bytes = span.offset_bytes + size_bytes
        return size_bytes

    def tell(self) -> int:
        """Return `position_bytes`."""
        return self._position_bytes

    def close(self) -> None:
        """Close, once the read that is under way has ended."""
        if not self.closed:
            self._executor.shutdown(wait=True, cancel_futures=True)
            os.close(self._fd)
        super().close()

    def _take(self) -> Span | None:
        if self._error is not None:
            raise self._error
        if self._given is not None:
            self._spare.append(self._given)
            self._given = None
        try:
            self._read_ahead()
            if not self._ahead:
                return None
            ahead = self._ahead[0]
            if ahead.filled is not None:
                ahead.filled.result()
        except OSError as error:
            self._error = error
            raise
        self._ahead.popleft()
        self._given = ahead.buffer
        return ahead.span

    def _read_ahead(self) -> None:
        """Start reading into every spare buffer."""
        while self._spare and (planned := next(self._planned, None)) is not None:
            offset_bytes, size_bytes, is_hole = planned
            if is_hole:
                self._ahead.append(_ReadAhead(Span(offset_bytes, size_bytes, None), None, None))
                continue
            buffer = self._spare.pop()
            filled = self._executor.submit(self._fill, buffer, offset_bytes, size_bytes)
            self._ahead.append(
                _ReadAhead(Span(offset_bytes, size_bytes, buffer[:size_bytes]), buffer, filled)
            )

    def _plan(self) -> Iterator[tuple[int, int, bool]]:
        """Give offset and size of what to read next, and whether it is a hole; all offsets are aligned."""
        offset_bytes = 0
        while offset_bytes < self.size_bytes:
            found_bytes = self._seek(offset_bytes, os.SEEK_DATA, self.size_bytes)
            data_bytes = max(offset_bytes, found_bytes)
            if data_bytes < self.size_bytes:
                data_bytes -= data_bytes % self.alignment_bytes
            if data_bytes > offset_bytes:
                yield offset_bytes, data_bytes - offset_bytes, True
            hole_bytes = self._seek(found_bytes, os.SEEK_HOLE, self.size_bytes)
            hole_bytes = min(self.size_bytes, self._align_up(hole_bytes))
            for piece_bytes in range(data_bytes, hole_bytes, self._buffer_bytes):
                yield piece_bytes, min(self._buffer_bytes, hole_bytes - piece_bytes), False
            offset_bytes = hole_bytes

    def _seek(self, offset_bytes: int, whence: int, end_bytes: int) -> int:
        """Find data or a hole from an offset on; the end if there is none."""
        if offset_bytes >= end_bytes:
            return end_bytes
        try:
            return min(end_bytes, os.lseek(self._fd, offset_bytes, whence))
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here on
                return end_bytes
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # knows no holes: it is all data
                return offset_bytes if whence == os.SEEK_DATA else end_bytes
            raise

    def _fill(self, buffer: memoryview, offset_bytes: int, size_bytes: int) -> None:
        """Read `size_bytes`, in the background; past the end of the file to the next block boundary."""
        asked_bytes = self._align_up(size_bytes)
        filled_bytes = 0
        while filled_bytes < size_bytes:
            part = buffer[filled_bytes:asked_bytes]
            read_bytes = self._read_at(part, offset_bytes + filled_bytes)
            if filled_bytes + read_bytes < size_bytes:
                read_bytes -= read_bytes % self.alignment_bytes
            if read_bytes == 0:
                raise OSError(errno.EIO, "the file got shorter while it was read", self._path)
            filled_bytes += read_bytes

    def _read_at(self, part: memoryview, offset_bytes: int) -> int:
        """Read once; tests put faults here."""
        return os.preadv(self._fd, [part], offset_bytes)

    def _align_up(self, size_bytes: int) -> int:
        return size_bytes + -size_bytes % self.alignment_bytes
