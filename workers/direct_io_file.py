"""A file that is written from beginning to end past the page cache.

What is written is gathered in aligned buffers. A full one goes to the disk in the background while the next
one fills; one thread does it, so that writes keep their order and `bytes_synced` is one growing prefix.
What does not fill a block at the end can only be written through the page cache: `sync_all` drops the
direct flag for those few bytes.

A background write that fails cannot be reported by the call that caused it. It surfaces on the next call,
once, with the original error; after that the file is failed for good, because nobody can say what a caller
that goes on has assumed about the bytes in between.
"""

import errno
import fcntl
import logging
import mmap
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from ringblk.workers.direct_io import DirectMode, set_direct, unset_direct
from ringblk.workers.direct_open import open_direct

BUFFER_BYTES = 1 << 20
BUFFER_COUNT = 2
# Through the page cache nothing is on the disk before a sync, and a sync of every buffer would be slow.
CACHED_SYNC_BYTES = 32 << 20

log = logging.getLogger(__name__)


class DirectIoFileFailed(Exception):  # noqa: N818
    """An earlier write failed and was reported then; what the file holds past `bytes_synced` is unknown.

    Close the file and begin again with a new one; `__cause__` is the error of that write.
    """


class DirectIoFile:
    """A new file, written in order past the page cache. May be used from several threads.

    Leaving it as a context manager syncs and closes it; leaving with an exception abandons it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        direct: DirectMode = "auto",
        exclusive: bool = False,
        buffer_bytes: int = BUFFER_BYTES,
        buffer_count: int = BUFFER_COUNT,
    ) -> None:
        """Create `path`, or empty it; with `exclusive` it must not exist yet.

        `direct`: "auto" goes on through the page cache where direct I/O is refused (logged once,
        `fallback_reason` says why), "on" makes that an OSError, "off" does not try.
        """
        flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else os.O_TRUNC)
        opened = open_direct(path, flags, direct)
        self._fd = opened.fd
        self._path = os.fspath(path)
        self._direct_mode = direct
        self.direct = opened.direct
        self.fallback_reason = opened.refusal
        self.alignment_bytes = opened.alignment_bytes
        if buffer_bytes % self.alignment_bytes or buffer_count < 1:
            os.close(self._fd)
            raise ValueError(
                f"buffer_bytes must be a multiple of {self.alignment_bytes}, and one buffer at least"
            )
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="direct-io-file")
        self._spare = [memoryview(mmap.mmap(-1, buffer_bytes)) for _ in range(buffer_count)]
        self._under_way: deque[tuple[Future[None], memoryview]] = deque()
        self._buffer: memoryview | None = None
        self._start_bytes = 0  # where in the file the buffer begins: always aligned
        self._fill_bytes = 0
        self._synced_bytes = 0
        self._safe_bytes = -1  # the length at the last `sync_all`
        self._cached_bytes = 0  # written through the page cache since the last sync
        self._error: BaseException | None = None
        self._error_reported = False
        self._closed = False

    @property
    def bytes_written(self) -> int:
        """How much the callers have written, zeroes included: where the next byte goes."""
        return self._start_bytes + self._fill_bytes

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
        with self._lock:
            self._check()
            while source:
                taken = self._append(source)
                source = source[taken:]
        return size_bytes

    def write_zeroes(self, size_bytes: int) -> None:
        """Append zeroes, as a hole where whole blocks of the file are concerned. Raises as `write` does."""
        if size_bytes < 0:
            raise ValueError("size_bytes must not be negative")
        with self._lock:
            self._check()
            to_boundary = min(size_bytes, -self.bytes_written % self.alignment_bytes)
            self._append_zeroes(to_boundary)
            size_bytes -= to_boundary
            tail_bytes = size_bytes % self.alignment_bytes
            if size_bytes > tail_bytes:
                self._submit()
                self._start_bytes += size_bytes - tail_bytes
            self._append_zeroes(tail_bytes)

    def sync_all(self) -> int:
        """Bring everything written so far onto the disk and return its length in bytes.

        Writing may go on afterwards. Raises as `write` does, and the error of what it does itself.
        """
        with self._lock:
            self._check()
            if self._safe_bytes == self.bytes_written:
                return self._safe_bytes
            self._wait_for_all()
            self._check()
            try:
                self._write_rest()
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
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._executor.shutdown(wait=True)
            self._under_way.clear()
            os.close(self._fd)

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
        self._fill_bytes += taken
        if self._fill_bytes == len(buffer):
            self._submit()
        return taken

    def _append_zeroes(self, size_bytes: int) -> None:
        zeroes = memoryview(bytes(size_bytes))  # less than a block
        while zeroes:
            zeroes = zeroes[self._append(zeroes) :]

    def _take_buffer(self) -> memoryview:
        if self._buffer is None:
            if not self._spare:
                self._wait_for_oldest()
                self._check()
            self._buffer = self._spare.pop()
        return self._buffer

    def _submit(self) -> None:
        """Hand the buffer, filled to a block boundary, to the background."""
        if self._buffer is None or self._fill_bytes == 0:
            return
        assert self._fill_bytes % self.alignment_bytes == 0, "a background write is aligned"
        part = self._buffer[: self._fill_bytes]
        future = self._executor.submit(self._write_in_background, part, self._start_bytes)
        self._under_way.append((future, self._buffer))
        self._start_bytes += self._fill_bytes
        self._buffer, self._fill_bytes = None, 0

    def _wait_for_oldest(self) -> None:
        future, buffer = self._under_way[0]
        future.result()
        self._under_way.popleft()
        self._spare.append(buffer)

    def _wait_for_all(self) -> None:
        while self._under_way:
            self._wait_for_oldest()

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

    def _write_rest(self) -> None:
        """Write what the buffer holds; keep what does not fill a block, so that writing can go on."""
        if self._buffer is not None and self._fill_bytes:
            tail_bytes = self._fill_bytes % self.alignment_bytes
            whole_bytes = self._fill_bytes - tail_bytes
            self._write_fully(self._buffer[:whole_bytes], self._start_bytes, self._block_bytes)
            tail = self._buffer[whole_bytes : self._fill_bytes]
            self._start_bytes += whole_bytes
            self._fill_bytes = tail_bytes
            self._buffer[:tail_bytes] = bytes(tail)
            self._write_tail(self._buffer[:tail_bytes])
        if os.fstat(self._fd).st_size < self.bytes_written:
            os.ftruncate(self._fd, self.bytes_written)  # it ends in a hole

    def _write_tail(self, tail: memoryview) -> None:
        """Write less than a block, without the direct flag."""
        if not tail:
            return
        if self.direct:
            unset_direct(self._fd)
        try:
            self._write_fully(tail, self._start_bytes, block_bytes=1)
        finally:
            if self.direct:
                set_direct(self._fd)

    def _sync(self) -> None:
        """Sync data and length, and give the cached pages back."""
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync alone stops at the disk's own cache
            fcntl.fcntl(self._fd, fcntl.F_FULLFSYNC)
        else:
            os.fsync(self._fd)
        self._cached_bytes = 0
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
