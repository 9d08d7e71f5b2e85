"""DirectIoFile and DirectIoReader for asyncio: the same calls, awaited.

Each has a thread of its own in which its calls run one after the other, so calls awaited together keep the
order in which they were made. A cancelled call is waited for before the cancellation goes on: it is done
or not begun, and nobody still reads the caller's bytes.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from ringblk.engine.images.direct_io_file import BUFFER_BYTES, BUFFER_COUNT, DirectIoFile
from ringblk.engine.images.direct_io_reader import DirectIoReader, Span
from ringblk.workers.backends.direct_io import DirectMode

T = TypeVar("T")


class _Caller:
    """Runs calls in one thread, in order."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        submitted = self._executor.submit(function, *arguments)
        future = asyncio.wrap_future(submitted)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not submitted.cancel():  # it runs, or ran
                await asyncio.wait([future])
                if not future.cancelled():
                    future.exception()  # what it raised, the file raises again or keeps in `failed`
            raise

    async def call_last(self, function: Callable[..., object], *arguments: object) -> None:
        """The last call; the thread ends with it."""
        try:
            await self.call(function, *arguments)
        finally:
            self._executor.shutdown(wait=False)


class AsyncDirectIoFile:
    """A DirectIoFile whose calls do not hold up the event loop; see there for what each of them does.

    Take it with `async with AsyncDirectIoFile(path) as file`.
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
        """Create, empty or wrap `file`, at once; the arguments are DirectIoFile's."""
        self.file = DirectIoFile(
            file, direct=direct, exclusive=exclusive, buffer_bytes=buffer_bytes, buffer_count=buffer_count
        )
        self._caller = _Caller("direct-io-file-async")

    @property
    def bytes_written(self) -> int:
        """How much has been written by calls that are done."""
        return self.file.bytes_written

    @property
    def bytes_synced(self) -> int:
        """How much of the file the disk has confirmed."""
        return self.file.bytes_synced

    @property
    def failed(self) -> BaseException | None:
        """The error of the write that made this file unusable, or None."""
        return self.file.failed

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self.file.closed

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append all of `data`."""
        return await self._caller.call(self.file.write, data)

    async def write_zeroes(self, size_bytes: int) -> None:
        """Append zeroes, as a hole where possible."""
        await self._caller.call(self.file.write_zeroes, size_bytes)

    async def flush(self) -> None:
        """Write the whole blocks of what was written so far, without a sync."""
        await self._caller.call(self.file.flush)

    async def sync_all(self) -> int:
        """Bring everything written so far onto the disk and return its length in bytes."""
        return await self._caller.call(self.file.sync_all)

    async def close(self) -> None:
        """Sync and close."""
        await self._caller.call_last(self.file.close)

    async def abandon(self) -> None:
        """Close without bringing the rest onto the disk."""
        await self._caller.call_last(self.file.abandon)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._caller.call_last(self.file.__exit__, kind, error, trace)


class AsyncDirectIoReader:
    """A DirectIoReader whose calls do not hold up the event loop; see there for what each of them does."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        direct: DirectMode = "auto",
        buffer_bytes: int = BUFFER_BYTES,
        buffer_count: int = BUFFER_COUNT,
    ) -> None:
        """Open `path`, at once; the arguments are DirectIoReader's."""
        self.reader = DirectIoReader(
            path, direct=direct, buffer_bytes=buffer_bytes, buffer_count=buffer_count
        )
        self._caller = _Caller("direct-io-reader-async")

    @property
    def size_bytes(self) -> int:
        """The length of the file when it was opened."""
        return self.reader.size_bytes

    @property
    def position_bytes(self) -> int:
        """How much of the file the caller has been given."""
        return self.reader.position_bytes

    async def next_span(self) -> Span | None:
        """Return the next stretch of the file, None at its end."""
        return await self._caller.call(self.reader.next_span)

    async def spans(self) -> AsyncIterator[Span]:
        """Give the rest of the file, stretch by stretch."""
        while (span := await self.next_span()) is not None:
            yield span

    async def read(self, size_bytes: int = -1) -> bytes:
        """Return up to `size_bytes` of what comes next, all if negative; empty at the end of the file."""
        data: bytes = await self._caller.call(self.reader.read, size_bytes)
        return data

    async def close(self) -> None:
        """Close, once the read that is under way has ended."""
        await self._caller.call_last(self.reader.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
