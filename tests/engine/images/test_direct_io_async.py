"""The async forms: the same results, in order, and a loop that goes on meanwhile."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from ringblk.engine.images.direct_io_async import AsyncDirectIoFile, AsyncDirectIoReader

BUFFER_BYTES = 16384


def test_writes_awaited_together_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "target"
    pieces = [bytes([number]) * 3001 for number in range(60)]

    async def write_all() -> None:
        async with AsyncDirectIoFile(path, buffer_bytes=BUFFER_BYTES) as file:
            await asyncio.gather(*(file.write(piece) for piece in pieces))
            await file.write_zeroes(50_000)
            assert await file.sync_all() == file.bytes_synced == file.bytes_written == 60 * 3001 + 50_000
            await file.write(b"end")
        assert file.closed
        assert file.failed is None

    asyncio.run(write_all())
    assert path.read_bytes() == b"".join(pieces) + bytes(50_000) + b"end"


def test_reading_back(tmp_path: Path) -> None:
    path = tmp_path / "source"
    content = os.urandom(5 * BUFFER_BYTES + 77)
    path.write_bytes(content)

    async def read_all() -> bytes:
        async with AsyncDirectIoReader(path, buffer_bytes=BUFFER_BYTES) as reader:
            assert reader.size_bytes == len(content)
            got = bytearray(await reader.read(10))
            async for span in reader.spans():
                assert span.data is not None
                got += span.data
            assert reader.position_bytes == len(content)
            assert await reader.read() == b""
            return bytes(got)

    assert asyncio.run(read_all()) == content


def test_the_loop_goes_on_and_a_cancelled_write_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "target"
    gate = threading.Event()

    async def cancel_one() -> None:
        file = AsyncDirectIoFile(path, buffer_bytes=BUFFER_BYTES)
        write_at = file.file._write_at

        def wait_and_write(part: memoryview, offset_bytes: int) -> int:
            gate.wait()
            return write_at(part, offset_bytes)

        monkeypatch.setattr(file.file, "_write_at", wait_and_write)
        blocked = asyncio.create_task(file.write(b"a" * 4 * BUFFER_BYTES))  # two buffers: it has to wait
        behind = asyncio.create_task(file.write(b"b"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # both tasks have made their call
        behind.cancel()
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await behind
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await blocked
        assert file.bytes_written == 4 * BUFFER_BYTES
        await file.close()

    asyncio.run(cancel_one())
    assert path.read_bytes() == b"a" * 4 * BUFFER_BYTES


def test_a_failed_write_surfaces_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(part: memoryview, offset_bytes: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def fail_to_write() -> None:
        async with AsyncDirectIoFile(tmp_path / "target", buffer_bytes=BUFFER_BYTES) as file:
            monkeypatch.setattr(file.file, "_write_at", fail)
            await file.write(b"a" * BUFFER_BYTES)
            with pytest.raises(OSError, match="No space left"):
                await file.sync_all()
            assert isinstance(file.failed, OSError)

    asyncio.run(fail_to_write())


def test_flush_and_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.write_bytes(b"old " * 5000)

    async def write_some() -> None:
        async with AsyncDirectIoFile(os.open(path, os.O_RDWR), direct="on") as file:
            await file.write(b"n" * 9000)
            await file.flush()
            assert file.bytes_synced == 9000 // file.file.alignment_bytes * file.file.alignment_bytes

    asyncio.run(write_some())
    assert path.read_bytes() == b"n" * 9000 + (b"old " * 5000)[9000:]
