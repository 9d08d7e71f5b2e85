"""The form of a delta: what has changed of a drive since a snapshot of it, as a file (docs/images.md).

A head in the clear says what it is and what it is to be applied to. All after it is one zstd frame: records,
each an extent with the digest of its data, and one that ends it with a digest over all.
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from ringblk.engine.images.error import ImageError

MAGIC = b"RBDELTA\n"
VERSION = 1
MAX_EXTENT_BYTES = 1 << 20
"""Of one record."""
_HEAD = struct.Struct("<8sII")
_RECORD = struct.Struct("<B7xQQ32s")
_ZERO, _DATA, _END = 0, 1, 2
_DIGEST_BYTES = 32
_MAX_DESCRIPTION_BYTES = 1 << 16


class DeltaSnapshot(msgspec.Struct, frozen=True):
    """A state of a drive: a layer's id says which, in hexadecimal; the name is for people."""

    layer_id: str
    name: str
    size_bytes: int
    sealed_ns: int = 0


class DeltaBase(msgspec.Struct, frozen=True):
    """A base: another overlay's layer, or what a raw image has in it."""

    size_bytes: int
    layer_id: str = ""
    sha256: str = ""


class DeltaDescription(msgspec.Struct, frozen=True):
    """What a delta makes, and of what: of a snapshot, of what the whole overlay lies on, or of nothing."""

    to: DeltaSnapshot
    since: DeltaSnapshot | None = None
    base: DeltaBase | None = None


class DeltaExtent(msgspec.Struct, frozen=True):
    """A stretch of a drive, in bytes, and what it has to hold; None: zeroes."""

    offset: int
    length: int
    data: memoryview | None


class DeltaWriter:
    """Writes a delta: what `file` gets is to be compressed from the end of the head on, by `compressed`."""

    def __init__(self, description: DeltaDescription) -> None:
        content = msgspec.json.encode(description)
        head = _HEAD.pack(MAGIC, VERSION, len(content)) + content
        self._digest = hashlib.sha256(head)
        self.head = head + self._digest.digest()
        """What the file begins with, in the clear."""
        self._count = self._data_bytes = 0

    def extent(self, stream: BinaryIO, offset: int, length: int, data: memoryview | None) -> None:
        """Write the next extent. Raises as the stream does."""
        if data is None:
            self._record(stream, _ZERO, offset, length, bytes(_DIGEST_BYTES))
            return
        self._record(stream, _DATA, offset, length, hashlib.sha256(data).digest())
        stream.write(data)
        self._data_bytes += length

    def end(self, stream: BinaryIO) -> None:
        """Write the end."""
        stream.write(_RECORD.pack(_END, self._count, self._data_bytes, self._digest.digest()))

    def _record(self, stream: BinaryIO, kind: int, offset: int, length: int, digest: bytes) -> None:
        record = _RECORD.pack(kind, offset, length, digest)
        self._digest.update(record)
        self._count += 1
        stream.write(record)


class DeltaReader:
    """Reads a delta. What it gives was compared with its digest; the whole is right once `extents` has ended.

    Raises `ImageError` for what is no delta, is of another version, cut off or damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read the head; `file` stands behind it then."""
        head = _read(file, _HEAD.size)
        magic, version, length = _HEAD.unpack(head)
        if magic != MAGIC:
            raise ImageError("this is no delta")
        if version != VERSION:
            raise ImageError(f"this delta has version {version}, and this program knows {VERSION}")
        if length > _MAX_DESCRIPTION_BYTES:
            raise ImageError("this delta is damaged: its head is too long")
        head += _read(file, length)
        self._digest = hashlib.sha256(head)
        if _read(file, _DIGEST_BYTES) != self._digest.digest():
            raise ImageError("this delta is damaged: the digest of its head is wrong")
        try:
            self.description = msgspec.json.decode(head[_HEAD.size :], type=DeltaDescription)
        except msgspec.DecodeError as error:
            raise ImageError(f"this delta says nothing that this program knows: {error}") from None

    def extents(self, stream: BinaryIO) -> Iterator[DeltaExtent]:
        """What the decompressed rest has, in order, each after the one before it."""
        size_bytes = self.description.to.size_bytes
        count = data_bytes = at = 0
        while True:
            record = _read(stream, _RECORD.size)
            kind, offset, length, digest = _RECORD.unpack(record)
            if kind == _END:
                if (offset, length, digest) != (count, data_bytes, self._digest.digest()) or stream.read(1):
                    raise ImageError("this delta is damaged: its digest is wrong")
                return
            if kind not in (_ZERO, _DATA) or offset < at or length == 0 or offset + length > size_bytes:
                raise ImageError("this delta is damaged: an extent is out of place")
            if kind == _DATA and length > MAX_EXTENT_BYTES:
                raise ImageError("this delta is damaged: an extent is too long")
            data = _read(stream, length) if kind == _DATA else None
            if data is not None and hashlib.sha256(data).digest() != digest:
                raise ImageError(f"this delta is damaged: the digest of its extent at {offset} is wrong")
            self._digest.update(record)
            count, at = count + 1, offset + length
            data_bytes += length if data is not None else 0
            yield DeltaExtent(offset, length, None if data is None else memoryview(data))


def is_delta(head: bytes) -> bool:
    """Whether a file begins like one."""
    return head.startswith(MAGIC)


def _read(stream: BinaryIO, size_bytes: int) -> bytes:
    """So many bytes. Raises `ImageError` where there are fewer."""
    content = b""
    while len(content) < size_bytes:
        piece = stream.read(size_bytes - len(content))
        if not piece:
            raise ImageError("this delta is cut off")
        content += piece
    return content
