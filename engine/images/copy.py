"""Copying an image: spans from a source into a sink, sparse where they are zero, with a digest on the way."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from ringblk.engine.images.direct_io_reader import Span
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.file_access import FileAccess
from ringblk.engine.images.format import QEMU_FORMATS, ImageFormat
from ringblk.engine.images.partial import PartialFile
from ringblk.engine.images.sink import ZEROES, ImageSink, open_sink
from ringblk.engine.images.source import ImageSource, open_source
from ringblk.workers.backends.topology import SECTOR_BYTES

# Zeroes are looked for in blocks of this size: a hole that is smaller splits writes for little room.
SPARSE_BLOCK_BYTES = 65536
# A bytearray, because comparing one with a memoryview compares memory; the other way round, item by item.
_ZERO_BLOCK = bytearray(SPARSE_BLOCK_BYTES)


class CopyWatcher(Protocol):
    """Told how a copy comes along, after each span."""

    def update(self, progress_bytes: int, total_bytes: int | None, bytes_synced: int) -> None:
        """Take how far reading has come and what the disk has confirmed."""


class CopyResult(msgspec.Struct):
    """What was copied: the raw content's length, how much of it was not zero, its SHA-256 if asked for."""

    size_bytes: int
    data_bytes: int
    digest: str | None


class ContentDigest:
    """The SHA-256 of an image's raw content, holes counted as the zeroes that they are."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, span: Span) -> None:
        """Add what comes next."""
        if span.data is not None:
            self._hash.update(span.data)
            return
        for start_bytes in range(0, span.size_bytes, len(ZEROES)):
            self._hash.update(ZEROES[: span.size_bytes - start_bytes])

    def text(self) -> str:
        """Return the digest so far, in hexadecimal."""
        return self._hash.hexdigest()


def split_zeroes(span: Span) -> Iterator[Span]:
    """Split a span where blocks of it are zero; zero stretches come without data."""
    data = span.data
    if data is None:
        yield span
        return
    start_bytes, start_is_zero = 0, False
    for block_bytes in range(0, len(data), SPARSE_BLOCK_BYTES):
        block = data[block_bytes : block_bytes + SPARSE_BLOCK_BYTES]
        is_zero = len(block) == SPARSE_BLOCK_BYTES and block == _ZERO_BLOCK
        if is_zero != start_is_zero and block_bytes > start_bytes:
            yield _part(span, start_bytes, block_bytes, start_is_zero)
            start_bytes = block_bytes
        start_is_zero = is_zero
    if len(data) > start_bytes:
        yield _part(span, start_bytes, len(data), start_is_zero)


def _part(span: Span, start_bytes: int, end_bytes: int, is_zero: bool) -> Span:
    data = None if is_zero or span.data is None else span.data[start_bytes:end_bytes]
    return Span(span.offset_bytes + start_bytes, end_bytes - start_bytes, data)


def copy_spans(
    source: ImageSource, sink: ImageSink, digest: ContentDigest | None, watcher: CopyWatcher
) -> CopyResult:
    """Copy all of a source, filled up with zeroes to what the sink holds. Does not finish the sink.

    Raises ImageError for an empty source, and what source and sink raise.
    """
    size_bytes = data_bytes = 0
    for span in _read(source):
        for part in split_zeroes(span):
            if part.data is None:
                sink.write_zeroes(part.size_bytes)
            else:
                sink.write(part.data)
                data_bytes += part.size_bytes
        if digest is not None:
            digest.add(span)
        size_bytes += span.size_bytes
        watcher.update(source.progress_bytes, source.total_bytes, sink.bytes_synced)
    if size_bytes == 0:
        raise ImageError("the source is empty: there is no image in it")
    wanted_bytes = sink.size_bytes or size_bytes + -size_bytes % SECTOR_BYTES
    missing_bytes = wanted_bytes - size_bytes
    if missing_bytes > 0:
        sink.write_zeroes(missing_bytes)
        if digest is not None:
            digest.add(Span(size_bytes, missing_bytes, None))
        size_bytes += missing_bytes
    return CopyResult(size_bytes, data_bytes, digest.text() if digest is not None else None)


def _read(source: ImageSource) -> Iterator[Span]:
    """Give the source's spans, and tell its errors from those of the target."""
    try:
        yield from source.spans()
    except OSError as error:
        raise ImageError(f"the source cannot be read: {error.strerror or error}") from error


def copy_to_file(
    source: ImageSource,
    target: Path,
    image_format: ImageFormat,
    watcher: CopyWatcher,
    *,
    replace: bool,
    verify: bool,
    source_access: FileAccess | None = None,
) -> CopyResult:
    """Copy a source into a new image that appears under its name when it is whole, and verified if asked for.

    It is no more open than `source_access`; one that it replaces hands on its own owner, mode and list.
    Raises ImageError, ImageLocked, OSError; whatever is raised, an interrupt too, leaves nothing behind.
    """
    lock = image_format not in QEMU_FORMATS
    partial = PartialFile(target, replace=replace, lock=lock, source=source_access)
    try:
        sink = open_sink(partial.path, image_format, source.size_bytes)
        try:
            result = copy_spans(source, sink, ContentDigest() if verify else None, watcher)
            sink.finish()
        except BaseException:
            sink.abandon()
            raise
        if verify:
            _verify(partial.path, image_format, result, watcher)
        partial.commit()
    except BaseException:
        partial.discard()
        raise
    return result


def _verify(path: Path, image_format: ImageFormat, copied: CopyResult, watcher: CopyWatcher) -> None:
    digest = ContentDigest()
    source = open_source(str(path), image_format)
    try:
        for span in source.spans():
            digest.add(span)
            watcher.update(source.progress_bytes, source.total_bytes, copied.size_bytes)
    finally:
        source.close()
    if digest.text() != copied.digest:
        raise ImageError(f"read back, the target's digest is {digest.text()} and should be {copied.digest}")
