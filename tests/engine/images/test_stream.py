"""Compressed files of several streams, with whatever their format allows between and after them, or not."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.engine.images.stream import CompressedReader, StreamError
from ringblk.engine.images.zstd import open_zstd_compressor


def zstd(data: bytes) -> bytes:
    packed = io.BytesIO()
    with open_zstd_compressor(packed) as stream:
        stream.write(data)
    return packed.getvalue()


def skippable(size_bytes: int, kind: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, size_bytes) + b"s" * size_bytes


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstd,
}
EVERY_PACKER = pytest.mark.parametrize("name", sorted(PACKERS))


class Trickle(io.RawIOBase):
    """A file that gives at most so many bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, most_bytes: int) -> None:
        super().__init__()
        self._below = io.BytesIO(data)
        self._most_bytes = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        return self._below.readinto(view[: self._most_bytes])


def unpack(name: str, packed: bytes, most_bytes: int = 1 << 20, buffer_bytes: int = 1000) -> bytes:
    reader = CompressedReader(Trickle(packed, most_bytes), name)  # type: ignore[arg-type]
    pieces = []
    while piece := reader.read(buffer_bytes):
        pieces.append(piece)
    return b"".join(pieces)


@EVERY_PACKER
@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 5000), max_size=4),
    gap=st.integers(0, 3),
    most_bytes=st.sampled_from([1, 7, 1 << 20]),
    buffer_bytes=st.sampled_from([1, 100, 1 << 16]),
)
def test_any_streams_are_all_read(
    name: str, sizes: list[int], gap: int, most_bytes: int, buffer_bytes: int
) -> None:
    contents = [random.Random(size).randbytes(size // 2) + bytes(size // 2) for size in sizes]
    between = {"xz": bytes(4 * gap), "zstd": skippable(gap)}.get(name, b"")
    packed = between.join(PACKERS[name](content) for content in contents)
    if packed:
        packed += {"gzip": bytes(gap)}.get(name, between)
    if name == "zstd":
        packed = skippable(5, kind=15) + packed
    assert unpack(name, packed, most_bytes, buffer_bytes) == b"".join(contents)


@EVERY_PACKER
def test_what_does_not_belong_there_is_no_silence(name: str) -> None:
    stream = PACKERS[name](b"content" * 100)
    for wrong in (b"garbage", b"\0garbage", stream[:3], stream + b"x", stream + bytes(4) + b"x"):
        with pytest.raises(StreamError):
            unpack(name, stream + wrong)
    with pytest.raises(StreamError):
        unpack(name, b"garbage" + stream)


@EVERY_PACKER
def test_a_stream_cut_off_anywhere_is_an_error(name: str) -> None:
    first = PACKERS[name](b"content" * 100)
    packed = first + PACKERS[name](random.Random(3).randbytes(300))
    for end_bytes in range(1, len(packed)):
        if end_bytes == len(first):
            continue  # nobody can know that there was more
        with pytest.raises(StreamError):
            unpack(name, packed[:end_bytes])


def test_the_padding_of_xz_is_in_fours_and_never_first() -> None:
    stream = lzma.compress(b"content")
    for size_bytes in (1, 2, 3, 5, 1023):
        for after in (b"", stream):
            with pytest.raises(StreamError):
                unpack("xz", stream + bytes(size_bytes) + after)
    with pytest.raises(StreamError):
        unpack("xz", bytes(4) + stream)
    far = 3 << 20  # more than is read at once
    assert unpack("xz", stream + bytes(far) + stream + bytes(far)) == b"contentcontent"


def test_zeroes_between_members_of_gzip_are_an_error() -> None:
    stream = gzip.compress(b"content")
    with pytest.raises(StreamError):
        unpack("gzip", stream + bytes(512) + stream)
    assert unpack("gzip", stream + bytes(512)) == b"content"


def test_a_skippable_frame_that_is_cut_off() -> None:
    for cut in (skippable(10)[:-1], skippable(10)[:6], struct.pack("<II", 0x184D2A50, 0xFFFFFFFF)):
        with pytest.raises(StreamError):
            unpack("zstd", zstd(b"content") + cut)


@pytest.mark.parametrize("program", ["gzip", "xz", "bzip2", "zstd"])
def test_what_the_programs_write(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    content = random.Random(9).randbytes(200_000) + bytes(1 << 20)
    packed = subprocess.run([program, "-c"], input=content, capture_output=True, check=True).stdout
    assert unpack(program, packed + packed, buffer_bytes=1 << 16) == content * 2
