"""A file that is written from beginning to end past the page cache.

What is written is gathered in aligned buffers. Whole blocks of it go to the disk in the background as soon
as no write is under way: a slow writer's need not wait for a buffer to fill, and a fast one's go by whole
buffers. One thread does it, so writes keep their order and `bytes_synced` is one growing prefix. What does
not fill a block at the end can only be written through the page cache: `sync_all` drops the direct flag for
those few bytes.

A background write that fails cannot be reported by the call that caused it. It surfaces on the next call,
once, with the original error; after that the file is failed for good, because nobody can say what a caller
that goes on has assumed about the bytes in between.
"""

import errno
import logging
import mmap
import os
import stat
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

from ringblk.shm.platform.uncached import drop_cache, sync_file
from ringblk.workers.backends.direct_io import DirectMode, set_direct, unset_direct
from ringblk.workers.backends.direct_open import open_target, release, size_of

BUFFER_BYTES = 1 << 20
BUFFER_COUNT = 2
# Through the page cache nothing is on the disk before a sync, and a sync of every buffer would be slow.
CACHED_SYNC_BYTES = 32 << 20

_ZEROES = memoryview(bytes(BUFFER_BYTES))

log = logging.getLogger(__name__)


class _Part(NamedTuple):
    """A piece for the background to write; `buffer` is free when that is done, None: more of it follows."""

    data: memoryview
    offset_bytes: int
    buffer: memoryview | None


class DirectIoFileFailed(Exception):  # noqa: N818
    """An earlier write failed and was reported then; what the file holds past `bytes_synced` is unknown.

    Close the file and begin again with a new one; `__cause__` is the error of that write.
    """


class DirectIoFile:
    """A file, written in order from its beginning past the page cache. May be used from several threads.

    Leaving it as a context manager syncs and closes it; leaving with an exception abandons it.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | int,
        *,
        direct: DirectMode = "auto",
        exclusive: bool = False,
        buffer_bytes: int = BUFFER_BYTES,
        buffer_count: int = BUFFER_COUNT,
    ) -> None:
        """Create the file at a path, or empty it; with `exclusive` it must not exist yet.

        A descriptor is wrapped, and closed in the end; of one that is named as a path (`/dev/fd/N`) it is a
        duplicate. Then nothing is emptied: what is not written over stays. It must be open for writing, and
        not for appending.

        `direct`: "auto" goes on through the page cache where direct I/O is refused (logged once,
        `fallback_reason` says why), "on" makes that an OSError, "off" does not try.
        """
        self._path = f"descriptor {file}" if isinstance(file, int) else os.fspath(file)
        opened = open_target(file, direct, exclusive=exclusive)
        self._fd = opened.fd
        self._opened = opened
        self._direct_mode = direct
        self.direct = opened.direct
        self.fallback_reason = opened.refusal
        self.alignment_bytes = opened.alignment_bytes
        if buffer_bytes % self.alignment_bytes or buffer_count < 1:
            release(opened, keep_open=isinstance(file, int))
            raise ValueError(
                f"buffer_bytes must be a multiple of {self.alignment_bytes}, and one buffer at least"
            )
        self._is_regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        # What stood there before must be overwritten to become zeroes.
        self._old_bytes = size_of(self._fd) if opened.is_wrapped else 0
        self._calls = threading.Lock()  # one call at a time: a write stays whole, and in order
        # Over what callers and the background share, down to _is_draining.
        self._lock = threading.Lock()
        self._state = threading.Condition(self._lock)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="direct-io-file")
        self._spare = [memoryview(mmap.mmap(-1, buffer_bytes)) for _ in range(buffer_count)]
        self._pending: deque[_Part] = deque()
        self._buffer: memoryview | None = None
        self._start_bytes = 0  # where in the file the buffer begins: always aligned
        self._taken_bytes = 0  # how much of it the background has taken: whole blocks
        self._fill_bytes = 0
        self._is_draining = False
        self._synced_bytes = 0
        self._safe_bytes = -1  # the length at the last `sync_all`
        self._written_bytes = 0
        self._cached_bytes = 0  # written through the page cache since the last sync
        self._error: BaseException | None = None
        self._error_reported = False
        self._closed = False

    @property
    def bytes_written(self) -> int:
        """How much the callers have written, zeroes included: where the next byte goes."""
        return self._written_bytes

    @property
    def bytes_synced(self) -> int:
        """How much of the file, from its beginning, the disk has confirmed; never falls, read it at any time.

        A direct write counts when it is done, one through the page cache when it is synced. The file's
        metadata, and what the disk keeps in a volatile cache of its own, are safe only after `sync_all`.
        """
        return self._synced_bytes

    @property
    def failed(self) -> BaseException | None:
        """The error of the write that made this file unusable, or None."""
        return self._error

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._closed

    def fileno(self) -> int:
        """Return the descriptor, to lock it or to look at it: do not write through it."""
        return self._fd

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append all of `data` and return its length in bytes. Waits while all buffers are under way.

        Raises the error of an earlier background write once, then DirectIoFileFailed.
        """
        source = memoryview(data).cast("B")
        size_bytes = len(source)
        with self._calls:
            self._check()
            while source:
                source = source[self._append(source) :]
        return size_bytes

    def write_zeroes(self, size_bytes: int) -> None:
        """Append zeroes, as a hole where whole blocks of the file are concerned. Raises as `write` does."""
        if size_bytes < 0:
            raise ValueError("size_bytes must not be negative")
        with self._calls:
            self._check()
            old_bytes = max(0, self._old_bytes - self.bytes_written)
            size_bytes -= self._append_zeroes(min(size_bytes, old_bytes))
            size_bytes -= self._append_zeroes(min(size_bytes, -self.bytes_written % self.alignment_bytes))
            tail_bytes = size_bytes % self.alignment_bytes
            if size_bytes > tail_bytes:
                self._leave_hole(size_bytes - tail_bytes)
            self._append_zeroes(tail_bytes)

    def flush(self) -> None:
        """Write the whole blocks of what was written so far, and wait until that is done; syncs nothing.

        What does not fill a block stays for later. Raises as `write` does.
        """
        with self._calls:
            self._check()
            self._drain_all()
            self._check()

    def sync_all(self) -> int:
        """Bring everything written so far onto the disk and return its length in bytes.

        Writing may go on afterwards. Raises as `write` does, and the error of what it does itself.
        """
        with self._calls:
            self._check()
            if self._safe_bytes == self.bytes_written:
                return self._safe_bytes
            self._drain_all()
            self._check()
            try:
                self._write_tail()
                if self._is_regular and os.fstat(self._fd).st_size < self.bytes_written:
                    os.ftruncate(self._fd, self.bytes_written)  # it ends in a hole
                self._sync()
            except BaseException as error:
                self._error, self._error_reported = error, True
                raise
            self._synced_bytes = self._safe_bytes = self.bytes_written
            return self._safe_bytes

    def close(self) -> None:
        """Sync and close; a second call does nothing. The descriptor is closed even if that raises.

        Raises as `sync_all` does, but nothing for a failure that was reported before.
        """
        if self._closed:
            return
        try:
            if not (self._error and self._error_reported):
                self.sync_all()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close without bringing the rest onto the disk: waits only for what is under way."""
        with self._calls:
            if self._closed:
                return
            with self._lock:
                self._closed = True
            self._executor.shutdown(wait=True)
            release(self._opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        self.abandon()
        if self._error is not None and not self._error_reported and self._error is not error:
            error.add_note(f"a background write had failed too: {self._error}")

    @property
    def _block_bytes(self) -> int:
        return self.alignment_bytes if self.direct else 1

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the file is closed")
        if self._error is None:
            return
        if not self._error_reported:
            self._error_reported = True
            raise self._error
        raise DirectIoFileFailed("an earlier write to this file failed") from self._error

    def _append(self, source: memoryview) -> int:
        buffer = self._take_buffer()
        taken = min(len(source), len(buffer) - self._fill_bytes)
        buffer[self._fill_bytes : self._fill_bytes + taken] = source[:taken]
        with self._lock:
            self._fill_bytes += taken
            self._written_bytes += taken
            if self._fill_bytes == len(buffer):
                self._retire_buffer()
            elif not self._is_draining:
                self._wake()
        return taken

    def _append_zeroes(self, size_bytes: int) -> int:
        left_bytes = size_bytes
        while left_bytes:
            left_bytes -= self._append(_ZEROES[:left_bytes])
        return size_bytes

    def _leave_hole(self, size_bytes: int) -> None:
        """Go on so many bytes further on; what was written fills whole blocks."""
        with self._lock:
            if self._fill_bytes:
                self._retire_buffer()
            self._start_bytes += size_bytes
            self._written_bytes += size_bytes

    def _take_buffer(self) -> memoryview:
        if self._buffer is None:
            with self._lock:
                self._state.wait_for(lambda: self._spare)
                self._buffer = self._spare.pop()
            self._check()
        return self._buffer

    def _retire_buffer(self) -> None:
        """Hand over the rest of the buffer, filled to a block boundary. The caller holds the lock."""
        assert self._buffer is not None and self._fill_bytes % self.alignment_bytes == 0  # noqa: PT018
        rest = self._buffer[self._taken_bytes : self._fill_bytes]
        self._pending.append(_Part(rest, self._start_bytes + self._taken_bytes, self._buffer))
        self._start_bytes += self._fill_bytes
        self._buffer, self._taken_bytes, self._fill_bytes = None, 0, 0
        self._wake()

    def _wake(self) -> None:
        """Have the background write what fills whole blocks, if it isn't at it. The caller holds the lock."""
        if not self._is_draining and (self._pending or self._ready_bytes):
            self._is_draining = True
            self._executor.submit(self._drain)

    @property
    def _ready_bytes(self) -> int:
        """How much of the buffer fills whole blocks and was not taken."""
        return self._fill_bytes - self._fill_bytes % self.alignment_bytes - self._taken_bytes

    def _drain_all(self) -> None:
        """Wait until all whole blocks are written."""
        with self._lock:
            self._wake()
            self._state.wait_for(lambda: not self._is_draining)

    def _drain(self) -> None:
        """Write, in the background, until there is nothing that fills a block."""
        while (part := self._next_part()) is not None:
            self._write_in_background(part.data, part.offset_bytes)
            if part.buffer is not None:
                with self._lock:
                    self._spare.append(part.buffer)
                    self._state.notify_all()

    def _next_part(self) -> _Part | None:
        with self._lock:
            if self._pending:
                return self._pending.popleft()
            size_bytes = self._ready_bytes
            if self._buffer is None or size_bytes == 0 or self._closed:
                self._is_draining = False
                self._state.notify_all()
                return None
            data = self._buffer[self._taken_bytes : self._taken_bytes + size_bytes]
            part = _Part(data, self._start_bytes + self._taken_bytes, None)
            self._taken_bytes += size_bytes
            return part

    def _write_in_background(self, part: memoryview, offset_bytes: int) -> None:
        if self._error is not None:
            return  # nothing lands behind a gap
        try:
            self._write_fully(part, offset_bytes, self._block_bytes)
            if not self.direct:
                self._cached_bytes += len(part)
                if self._cached_bytes < CACHED_SYNC_BYTES:
                    return
                self._sync()
            self._synced_bytes = offset_bytes + len(part)
        except BaseException as error:
            self._error = error

    def _write_fully(self, part: memoryview, offset_bytes: int, block_bytes: int) -> None:
        while part:
            try:
                written = self._write_at(part, offset_bytes)
            except OSError as error:
                if error.errno != errno.EINVAL or not self.direct or self._direct_mode != "auto":
                    raise
                self._fall_back(error)
                continue
            if written < len(part):
                written -= written % block_bytes  # a block half done is done again: only whole ones can be
            if written == 0:
                raise OSError(errno.EIO, "the file system takes no whole block", self._path)
            part = part[written:]
            offset_bytes += written

    def _write_at(self, part: memoryview, offset_bytes: int) -> int:
        """Write once; tests put faults here."""
        return os.pwrite(self._fd, part, offset_bytes)

    def _fall_back(self, error: OSError) -> None:
        """Go on through the page cache: the flag was taken, but a write that keeps its rules is not."""
        unset_direct(self._fd)
        self.direct = False
        self.fallback_reason = f"direct writes are refused ({error.strerror or error})"
        log.warning("%s: %s, going through the page cache", self._path, self.fallback_reason)

    def _write_tail(self) -> None:
        """Write what does not fill a block, without the direct flag; it stays in the buffer."""
        if self._buffer is None or self._fill_bytes == self._taken_bytes:
            return
        if self.direct:
            unset_direct(self._fd)
        try:
            tail = self._buffer[self._taken_bytes : self._fill_bytes]
            self._write_fully(tail, self._start_bytes + self._taken_bytes, block_bytes=1)
        finally:
            if self.direct:
                set_direct(self._fd)

    def _sync(self) -> None:
        """Sync data and length, and give the cached pages back."""
        sync_file(self._fd)
        self._cached_bytes = 0
        drop_cache(self._fd)
