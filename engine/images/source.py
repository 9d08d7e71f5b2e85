"""Where an image comes from: whatever its format, spans of its raw content in order."""

import io
import os
import stat
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from mmap import mmap
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from ringblk.engine.base.pipe_io import PipeReader
from ringblk.engine.images.direct_io_reader import BUFFER_BYTES, DirectIoReader, Span
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.format import (
    COMPRESSIONS,
    CONTAINER_HEAD_BYTES,
    QEMU_FORMATS,
    UNREADABLE,
    ImageFormat,
    find_container,
)
from ringblk.engine.images.nbd_client import CMD_READ, NbdError
from ringblk.engine.images.probe import ContentProbe, check_is_image, read_ends, refuse_container, tell_format
from ringblk.engine.images.qemu_image import QemuNbd, describe_image, map_extents
from ringblk.engine.images.stream import CompressedReader, StreamError
from ringblk.shm.platform.descriptors import path_of
from ringblk.workers.backends.direct_open import LARGE_BUFFER_BYTES
from ringblk.workers.backends.image_lock import check_not_written, lock_image

READS_UNDER_WAY = 4


class ImageSource(Protocol):
    """An image being read. `progress_bytes` of `total_bytes` (None: nobody knows) are read so far."""

    image_format: ImageFormat
    size_bytes: int | None
    total_bytes: int | None

    @property
    def progress_bytes(self) -> int:
        """How far reading has come, in the measure of `total_bytes`."""

    def spans(self) -> Iterator[Span]:
        """Give the raw content in order; each span's data is good until the next."""

    def close(self) -> None:
        """Let go of the image."""


class RawSource:
    """A raw image, a file or a block device."""

    image_format: ImageFormat = "raw"

    def __init__(self, reader: DirectIoReader) -> None:
        self._reader = reader
        self.size_bytes: int | None = reader.size_bytes
        self.total_bytes: int | None = reader.size_bytes

    @property
    def progress_bytes(self) -> int:
        """How much of the file is read, holes included."""
        return self._reader.position_bytes

    def refuse_container(self) -> None:
        """Raise ImageError if the file is an image in another format."""
        refuse_container(*_ends(self._reader))

    def spans(self) -> Iterator[Span]:
        """Give the file's spans."""
        return self._reader.spans()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class StreamSource:
    """A stream of bytes, compressed or not, that may be a pipe."""

    size_bytes: int | None = None

    def __init__(
        self, stream: io.RawIOBase, image_format: ImageFormat, *, probe: ContentProbe | None
    ) -> None:
        """Read `stream`, which is in `image_format`; `probe` looks at what it holds."""
        self.image_format = image_format
        self._under = stream
        self._stream = stream
        if image_format in COMPRESSIONS:
            self._stream = CompressedReader(cast(BinaryIO, stream), image_format)
        self._probe = probe
        self._below = stream if isinstance(stream, DirectIoReader) else None
        self._given_bytes = 0
        self.total_bytes = self._below.size_bytes if self._below else None

    @property
    def progress_bytes(self) -> int:
        """How much is read of the file below, or what a pipe has given."""
        return self._below.position_bytes if self._below else self._given_bytes

    def spans(self) -> Iterator[Span]:
        """Read the stream, a buffer at a time.

        Raises ImageError if it is cut off or corrupt, or if what it holds is not seen to be a raw image.
        """
        buffer = memoryview(mmap(-1, BUFFER_BYTES))
        while True:
            try:
                size_bytes = self._fill(buffer)
            except StreamError as error:
                raise ImageError(
                    f"the source's {self.image_format} stream is cut off or corrupt: {error}"
                ) from error
            except MemoryError as error:  # its header says how much is needed: a dictionary of up to 4 GiB
                raise ImageError(
                    f"the source's {self.image_format} stream wants more memory than there is"
                ) from error
            if size_bytes == 0:
                break
            if self._probe is not None:
                self._probe.follow(buffer[:size_bytes])
            yield Span(self._given_bytes, size_bytes, buffer[:size_bytes])
            self._given_bytes += size_bytes
        if self._probe is not None:
            self._probe.end()

    def _fill(self, buffer: memoryview) -> int:
        filled_bytes = 0
        while filled_bytes < len(buffer):
            # readinto is None for "nothing yet" only where a stream does not wait, and these do
            read_bytes = self._stream.readinto(buffer[filled_bytes:])
            assert read_bytes is not None
            if read_bytes == 0:
                break
            filled_bytes += read_bytes
        return filled_bytes

    def close(self) -> None:
        """Close the stream and what is below it."""
        self._stream.close()
        self._under.close()


class QemuSource:
    """An image in one of QEMU's formats, read through qemu-nbd; what reads as zeroes is not read."""

    def __init__(self, path: Path, image_format: ImageFormat, *, direct: bool) -> None:
        """Serve `path` by a qemu-nbd of our own. Raises ImageError."""
        self.image_format = image_format
        self._extents = map_extents(path, image_format)
        self._nbd = QemuNbd(path, image_format, read_only=True, direct=direct)
        self.size_bytes: int | None = self._nbd.client.size_bytes
        self.total_bytes: int | None = self.size_bytes
        self._given_bytes = 0

    @property
    def progress_bytes(self) -> int:
        """How much of the image is read, holes included."""
        return self._given_bytes

    def spans(self) -> Iterator[Span]:
        """Read some requests ahead. Raises ImageError if qemu-nbd ends, OSError for a failed read."""
        spare = [memoryview(mmap(-1, BUFFER_BYTES)) for _ in range(READS_UNDER_WAY + 1)]
        ahead: deque[tuple[Span, memoryview | None, int]] = deque()
        answered: set[int] = set()
        planned = self._plan()
        client = self._nbd.client
        given: memoryview | None = None
        try:
            while True:
                if given is not None:
                    spare.append(given)
                while spare and (piece := next(planned, None)) is not None:
                    offset_bytes, size_bytes, zero = piece
                    if zero:
                        ahead.append((Span(offset_bytes, size_bytes, None), None, -1))
                        continue
                    buffer = spare.pop()
                    cookie = client.send(CMD_READ, offset_bytes, size_bytes, buffer)
                    ahead.append((Span(offset_bytes, size_bytes, buffer[:size_bytes]), buffer, cookie))
                if not ahead:
                    return
                span, given, cookie = ahead.popleft()
                while given is not None and cookie not in answered:
                    answered.add(client.receive())
                answered.discard(cookie)
                yield span
                self._given_bytes = span.offset_bytes + span.size_bytes
        except NbdError as error:
            raise self._nbd.explain(error) from error

    def _plan(self) -> Iterator[tuple[int, int, bool]]:
        assert self.size_bytes is not None
        for extent in self._extents:
            end_bytes = min(extent.start + extent.length, self.size_bytes)
            if extent.zero:
                yield extent.start, end_bytes - extent.start, True
                continue
            for start_bytes in range(extent.start, end_bytes, BUFFER_BYTES):
                yield start_bytes, min(BUFFER_BYTES, end_bytes - start_bytes), False

    def close(self) -> None:
        """End qemu-nbd."""
        self._nbd.close()


def open_source(name: str, image_format: ImageFormat | None) -> ImageSource:
    """Open the image `name` ("-": standard input); without a format, tell it from its ends and its name.

    Raises ImageError, OSError, ImageLocked if another program writes to it. An image whose format was not
    given may not lead to other files of the host, and a stream in a format that was not given must be seen to
    hold a raw image: a guest can write any beginning into one.
    """
    if name == "-":
        stdin_file = _standard_input_file()
        if stdin_file is None:
            return _open_stream(image_format)
        name = stdin_file
    path = Path(name)
    check_is_image(path)
    with ExitStack() as on_error:
        reader = on_error.enter_context(DirectIoReader(path, buffer_bytes=LARGE_BUFFER_BYTES, buffer_count=2))
        lock_image(reader.fileno(), read_only=True)
        told = image_format or tell_format(path, *_ends(reader))
        if told in QEMU_FORMATS:
            _check_outside_files(path, told, given=image_format is not None)
            direct = reader.direct
            on_error.close()  # and with it our lock, which qemu-nbd would take for another program's
            return QemuSource(path, told, direct=direct)
        on_error.pop_all()
        if told in COMPRESSIONS:
            probe = None if image_format else ContentProbe(name, told)
            return StreamSource(reader, told, probe=probe)
        return RawSource(reader)


def open_raw_source(path: str, *, insist: bool) -> ImageSource:
    """Open a raw image. Raises as `open_source` does, and ContainerFound unless told to insist."""
    source = open_source(path, "raw")
    try:
        if not insist and isinstance(source, RawSource):
            source.refuse_container()
    except BaseException:
        source.close()
        raise
    return source


def _ends(reader: DirectIoReader) -> tuple[bytes, bytes]:
    return read_ends(reader.fileno(), reader.size_bytes, reader.alignment_bytes)


def _check_outside_files(path: Path, image_format: ImageFormat, *, given: bool) -> None:
    outside = describe_image(path, image_format).outside_files
    if outside and not given:
        raise ImageError(
            f"this {image_format} image continues in {outside[0]}: --format {image_format} allows that"
        )


def _standard_input_file() -> str | None:
    """Name a standard input that is a file or device, at its beginning: it is read past the page cache."""
    fd = sys.stdin.fileno()
    opened = os.fstat(fd)
    if not (stat.S_ISREG(opened.st_mode) or stat.S_ISBLK(opened.st_mode)) or os.lseek(fd, 0, os.SEEK_CUR):
        return None
    name = path_of(fd)
    return name if os.path.exists(name) and os.path.samestat(os.stat(name), opened) else None


def _open_stream(image_format: ImageFormat | None) -> ImageSource:
    stream = PipeReader(sys.stdin.fileno())
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):  # from its middle on, or deleted
        check_not_written(sys.stdin.fileno())
    told = image_format or _told_of_stream(stream.peek_head(CONTAINER_HEAD_BYTES))
    if told in QEMU_FORMATS:
        raise ImageError(f"a {told} image cannot be read from a pipe: give a file")
    return StreamSource(stream, told, probe=None if image_format else ContentProbe(None, told))


def _told_of_stream(head: bytes) -> ImageFormat:
    container = find_container(head, b"") or "raw"
    if container in UNREADABLE:
        raise ImageError(
            f"this is a {container} file: {UNREADABLE[container]}; --format raw takes it as it is"
        )
    return cast(ImageFormat, container)
