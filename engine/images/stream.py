"""Compressed streams: a file may hold several, one after the other, and what else its format allows between.

Each stream is decompressed by itself, so that whatever stands between two, or after the last one, is looked
at: what the format allows there is skipped, anything else is an error, and nothing is dropped.

- gzip (RFC 1952): members; zeroes after the last one, which tapes and block devices fill up with.
- xz (The .xz File Format, 2.2): streams; stream padding of zero bytes, their number a multiple of four.
- bzip2: streams, and nothing else.
- zstd (RFC 8878, 3.1): frames and skippable frames, in any order.
"""

import io
import lzma
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.zstd import open_zstd_decompressor, zstd_error

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

INPUT_BYTES = 256 << 10
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f
XZ_PADDING_UNIT_BYTES = 4


class StreamError(ImageError):
    """The compressed file is cut off or corrupt."""


class Decompressor(Protocol):
    """One stream, as the decompressors of the standard library are."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def unused_data(self) -> bytes:
        """What was given to it beyond its end."""

    @property
    def needs_input(self) -> bool:
        """Whether it can go on without more input."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take input and return at most `max_length` bytes of output."""


class _GzipMember:
    """zlib's decompressor behind the others' interface; it checks the member's CRC and length."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class CompressedReader(io.RawIOBase):
    """The content of a compressed file: of all its streams, to where the file ends, or StreamError."""

    def __init__(self, stream: BinaryIO, image_format: str) -> None:
        """Read `stream`, which must not be read by others, in one of the formats above."""
        super().__init__()
        self._file = stream
        self._begin, self._skip = _RULES[image_format]
        self._input = b""  # read and not yet given to a decompressor
        self._current: Decompressor | None = None
        self._streams = 0  # begun so far

    def readable(self) -> bool:
        """Return True: it is a stream for reading."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill `buffer`, or as much as is there; 0 at the end of the last stream. Raises StreamError."""
        target = memoryview(buffer).cast("B")
        try:
            data = self._read_some(len(target))
        except (lzma.LZMAError, zlib.error, zstd_error(), EOFError) as error:
            raise StreamError(str(error)) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise StreamError(str(error)) from error  # bz2 says it so
        target[: len(data)] = data
        return len(data)

    def peek_input(self, size_bytes: int) -> bytes:
        """Return so many bytes of what comes next in the file, fewer at its end."""
        while len(self._input) < size_bytes:
            data = self._file.read(INPUT_BYTES)
            if not data:
                break
            self._input += data
        return self._input[:size_bytes]

    def skip_input(self, size_bytes: int) -> None:
        """Drop so many bytes of the file. Raises StreamError where it is shorter."""
        while size_bytes:
            taken = min(size_bytes, len(self._input) if self.peek_input(1) else 0)
            if not taken:
                raise StreamError("it ends within what is to be skipped")
            self._input = self._input[taken:]
            size_bytes -= taken

    def _read_some(self, max_bytes: int) -> bytes:
        while max_bytes:
            if self._current is None:
                self._skip(self, self._streams)
                if not self.peek_input(1):
                    break
                self._current = self._begin()
                self._streams += 1
            data = b""
            is_starved = self._current.needs_input and not self.peek_input(1)
            if self._current.needs_input:
                data, self._input = self._input, b""
            output = self._current.decompress(data, max_bytes)
            if self._current.eof:
                self._input = self._current.unused_data + self._input
                self._current = None
            elif is_starved and not output:  # zlib may have kept some output
                raise StreamError("it ends before the end of a stream")
            if output:
                return output
        return b""


def _skip_nothing(reader: CompressedReader, streams: int) -> None:
    """Leave what comes next to the decompressor, which refuses what is no stream."""


def _skip_gzip_padding(reader: CompressedReader, streams: int) -> None:
    if streams and reader.peek_input(1) == b"\0" and _skip_zeroes(reader) and reader.peek_input(1):
        raise StreamError("something follows the zeroes after a member")


def _skip_xz_padding(reader: CompressedReader, streams: int) -> None:
    if streams and _skip_zeroes(reader) % XZ_PADDING_UNIT_BYTES:
        raise StreamError("the padding after a stream is no multiple of four bytes")


def _skip_zeroes(reader: CompressedReader) -> int:
    """Skip zero bytes and return how many there were."""
    skipped_bytes = 0
    while ahead := reader.peek_input(INPUT_BYTES):
        zero_bytes = len(ahead) - len(ahead.lstrip(b"\0"))
        reader.skip_input(zero_bytes)
        skipped_bytes += zero_bytes
        if zero_bytes < len(ahead):
            break
    return skipped_bytes


def _skip_skippable_frames(reader: CompressedReader, streams: int) -> None:
    while is_skippable_frame(head := reader.peek_input(8)):
        if len(head) < 8:
            raise StreamError("it ends within a skippable frame")
        reader.skip_input(8 + int.from_bytes(head[4:8], "little"))


def is_skippable_frame(head: bytes) -> bool:
    """Whether a skippable frame of zstd begins here (RFC 8878, 3.1.2)."""
    return head[1:4] == _SKIPPABLE_MAGIC and head[0] >> 4 == 5


def _begin_xz() -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ)


def _begin_bzip2() -> Decompressor:
    import bz2

    return bz2.BZ2Decompressor()


_RULES: dict[str, tuple[Callable[[], Decompressor], Callable[[CompressedReader, int], None]]] = {
    "gzip": (_GzipMember, _skip_gzip_padding),
    "xz": (_begin_xz, _skip_xz_padding),
    "bzip2": (_begin_bzip2, _skip_nothing),
    "zstd": (open_zstd_decompressor, _skip_skippable_frames),
}
