"""Where an image goes: a sink for its raw content, whatever the format it is stored in."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from ringblk.engine.base.pipe_io import write_fully
from ringblk.engine.images.direct_io_file import DirectIoFile
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.format import QEMU_FORMATS, ImageFormat
from ringblk.engine.images.nbd_client import CMD_FLUSH, CMD_WRITE, NbdError
from ringblk.engine.images.qemu_image import QemuNbd, create_qemu_image
from ringblk.engine.images.zstd import open_zstd_compressor
from ringblk.workers.backends.direct_open import LARGE_BUFFER_BYTES, open_direct

ZEROES = memoryview(bytes(1 << 20))
WRITES_UNDER_WAY = 4


class ImageSink(Protocol):
    """An image being written, in order. Its writes may surface the errors of earlier ones."""

    size_bytes: int | None  # what the content must fill up to, if the format says

    @property
    def bytes_synced(self) -> int:
        """How much the disk has confirmed of what is written there."""

    def write(self, data: memoryview, /) -> object:
        """Append data."""

    def write_zeroes(self, size_bytes: int, /) -> None:
        """Append zeroes, as a hole where the format has holes."""

    def finish(self) -> None:
        """Bring all of it onto the disk and close."""

    def abandon(self) -> None:
        """Close without that."""


class RawSink:
    """A raw image."""

    size_bytes: int | None = None

    def __init__(self, path: Path) -> None:
        self._file = DirectIoFile(path, buffer_bytes=LARGE_BUFFER_BYTES)
        self.write: Callable[[memoryview], object] = self._file.write
        self.write_zeroes: Callable[[int], None] = self._file.write_zeroes

    @property
    def bytes_synced(self) -> int:
        """The file's own."""
        return self._file.bytes_synced

    def finish(self) -> None:
        """Sync and close."""
        self._file.close()

    def abandon(self) -> None:
        """Close only."""
        self._file.abandon()


class CompressedSink:
    """A raw image as one compressed stream; zeroes take next to no room in it, but time."""

    size_bytes: int | None = None

    def __init__(self, path: Path, image_format: ImageFormat) -> None:
        self._file = DirectIoFile(path)
        self._stream = compressed_stream(self._file, image_format)

    @property
    def bytes_synced(self) -> int:
        """The compressed file's own."""
        return self._file.bytes_synced

    def write(self, data: memoryview) -> None:
        """Compress data."""
        self._stream.write(data)

    def write_zeroes(self, size_bytes: int) -> None:
        """Compress zeroes."""
        for start_bytes in range(0, size_bytes, len(ZEROES)):
            self._stream.write(ZEROES[: size_bytes - start_bytes])

    def finish(self) -> None:
        """End the stream, sync and close."""
        self._stream.close()
        self._file.close()

    def abandon(self) -> None:
        """Close the file only."""
        self._file.abandon()


class _Flushable:
    """A DirectIoFile as the file below a compressor, which wants to flush it."""

    def __init__(self, file: DirectIoFile) -> None:
        self.write = file.write

    def flush(self) -> None:
        """Do nothing: what is not yet written is written when the file is closed."""


def compressed_stream(file: DirectIoFile, image_format: ImageFormat) -> BinaryIO:
    """A stream that compresses into a file, which stays open when it is closed. Raises `ImageError`."""
    stream = cast(BinaryIO, _Flushable(file))
    if image_format == "gzip":
        import gzip

        return cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="wb", filename="", compresslevel=6))
    if image_format == "xz":
        import lzma

        return cast(BinaryIO, lzma.LZMAFile(stream, "wb"))
    if image_format == "bzip2":
        import bz2

        return cast(BinaryIO, bz2.BZ2File(stream, "wb"))
    return open_zstd_compressor(stream)


class QemuSink:
    """An image in one of QEMU's formats, created empty and written through qemu-nbd."""

    def __init__(self, path: Path, image_format: ImageFormat, size_bytes: int) -> None:
        """Create it and serve it. Raises ImageError."""
        create_qemu_image(path, image_format, size_bytes)
        opened = open_direct(path, os.O_RDWR, "auto")
        os.close(opened.fd)
        self._nbd = QemuNbd(path, image_format, read_only=False, direct=opened.direct)
        self.size_bytes: int | None = self._nbd.client.size_bytes
        self._offset_bytes = 0
        self._under_way: dict[int, int] = {}  # cookie -> where it writes

    @property
    def bytes_synced(self) -> int:
        """How much of the content qemu-nbd has written; on the disk for good only at the end."""
        return min(self._under_way.values(), default=self._offset_bytes)

    def write(self, data: memoryview) -> None:
        """Send data, waiting while too much is under way. Raises ImageError, OSError."""
        self._wait(WRITES_UNDER_WAY - 1)
        try:
            cookie = self._nbd.client.send(CMD_WRITE, self._offset_bytes, len(data), data)
        except NbdError as error:
            raise self._nbd.explain(error) from error
        self._under_way[cookie] = self._offset_bytes
        self._offset_bytes += len(data)

    def write_zeroes(self, size_bytes: int) -> None:
        """Leave a stretch of the empty image as it is."""
        self._offset_bytes += size_bytes

    def finish(self) -> None:
        """Flush and end qemu-nbd, which closes the image."""
        self._wait(0)
        self._under_way[self._nbd.client.send(CMD_FLUSH, 0, 0)] = self._offset_bytes
        self._wait(0)
        self._nbd.close()

    def abandon(self) -> None:
        """End qemu-nbd."""
        self._nbd.close()

    def _wait(self, allowed: int) -> None:
        while len(self._under_way) > allowed:
            try:
                del self._under_way[self._nbd.client.receive()]
            except NbdError as error:
                raise self._nbd.explain(error) from error


class PipeSink:
    """A raw image into a pipe."""

    size_bytes: int | None = None

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.bytes_synced = 0  # what a pipe has taken is as far as it can be followed

    def write(self, data: memoryview) -> None:
        """Write all of data. Raises OSError: no room, or no reader any more."""
        write_fully(self._fd, data)
        self.bytes_synced += len(data)

    def write_zeroes(self, size_bytes: int) -> None:
        """Write zeroes: a pipe has no holes."""
        for start_bytes in range(0, size_bytes, len(ZEROES)):
            self.write(ZEROES[: size_bytes - start_bytes])

    def finish(self) -> None:
        """Do nothing: all is written."""

    def abandon(self) -> None:
        """Do nothing: the reader of a pipe sees it end early."""


def open_sink(path: Path, image_format: ImageFormat, size_bytes: int | None) -> ImageSink:
    """Open a sink for a new image at `path`. `size_bytes` is how long its content will be, if known."""
    if image_format in QEMU_FORMATS:
        if size_bytes is None:
            raise ImageError(f"{image_format} wants the size beforehand, and a stream does not tell it")
        return QemuSink(path, image_format, size_bytes)
    return RawSink(path) if image_format == "raw" else CompressedSink(path, image_format)
