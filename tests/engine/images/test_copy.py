"""Copies through every format: the same content, sparse, whole or not there at all."""

import bz2
import gzip
import hashlib
import itertools
import lzma
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.engine.images.copy import SPARSE_BLOCK_BYTES, CopyResult, copy_to_file, split_zeroes
from ringblk.engine.images.direct_io_file import DirectIoFile
from ringblk.engine.images.direct_io_reader import Span
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.format import (
    QEMU_FORMATS,
    WRITTEN_FORMATS,
    ImageFormat,
    content_format_of_name,
    format_of_name,
)
from ringblk.engine.images.probe import read_ends, tell_format
from ringblk.engine.images.qemu_image import describe_image
from ringblk.engine.images.source import open_source

SIZE_BYTES = 6 << 20
needs_qemu = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd is not installed")
EVERY_FORMAT = [
    pytest.param(name, marks=needs_qemu if name in QEMU_FORMATS else ()) for name in WRITTEN_FORMATS
]


class Watcher:
    def __init__(self) -> None:
        self.synced: list[int] = []

    def update(self, progress_bytes: int, total_bytes: int | None, bytes_synced: int) -> None:
        assert total_bytes is None or progress_bytes <= total_bytes
        self.synced.append(bytes_synced)


def content() -> bytes:
    """A partition table; data at the beginning, in the middle, at the end; zeroes, some short, between."""
    image = bytearray(SIZE_BYTES)
    chance = random.Random(7)
    for start, size in (
        (0, 70_000),
        ((3 << 20) - 50_000, 200_000),
        (SIZE_BYTES - 700, 700),
        (5 << 20, 1),
        ((5 << 20) + 9000, 1),
    ):
        image[start : start + size] = chance.randbytes(size)
    image[510:512] = b"\x55\xaa"
    return bytes(image)


def told_format(path: Path) -> ImageFormat:
    with path.open("rb") as file:
        return tell_format(path, *read_ends(file.fileno(), path.stat().st_size, 1))


def copy(
    source_name: Path,
    target: Path,
    target_format: ImageFormat,
    *,
    source_format: ImageFormat | None = None,
    replace: bool = False,
    verify: bool = True,
) -> CopyResult:
    source = open_source(str(source_name), source_format)
    try:
        return copy_to_file(source, target, target_format, Watcher(), replace=replace, verify=verify)
    finally:
        source.close()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "source.raw"
    path.write_bytes(content())
    return path


@pytest.mark.parametrize("image_format", EVERY_FORMAT)
def test_out_and_in_again(tmp_path: Path, raw: Path, image_format: ImageFormat) -> None:
    between, back = tmp_path / "between", tmp_path / "back.raw"
    out = copy(raw, between, image_format)
    assert told_format(between) == image_format
    returned = copy(between, back, "raw")
    assert out.digest == returned.digest == hashlib.sha256(content()).hexdigest()
    assert back.read_bytes() == content()
    assert back.stat().st_blocks * 512 < 2 << 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.raw", "between", "source.raw"]


@pytest.mark.parametrize("image_format", ["gzip", "xz", "zstd", "bzip2"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_stream_leaves_nothing(
    tmp_path: Path, raw: Path, image_format: ImageFormat, damage: str
) -> None:
    between = tmp_path / "between"
    copy(raw, between, image_format)
    stream = bytearray(between.read_bytes())
    if damage == "cut":
        del stream[len(stream) // 2 :]
    else:
        stream[len(stream) // 2] ^= 0xFF
    between.write_bytes(stream)
    with pytest.raises(ImageError, match="cut off or corrupt"):
        copy(between, tmp_path / "back.raw", "raw", source_format=image_format)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["between", "source.raw"]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_a_size_between_sectors_is_filled_up(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    packed = tmp_path / "content.img.packed"  # the name says what it holds
    packed.write_bytes(pack(b"x" * 1000))
    result = copy(packed, tmp_path / "back.raw", "raw")
    assert result.size_bytes == 1024
    assert (tmp_path / "back.raw").read_bytes() == b"x" * 1000 + bytes(24)


@needs_qemu
def test_an_image_that_leads_elsewhere_wants_its_format_named(tmp_path: Path, raw: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    command = f"qemu-img create -q -f qcow2 -F raw -b {raw} {overlay}"
    assert os.system(command) == 0
    assert describe_image(overlay, "qcow2").outside_files == [str(raw)]
    with pytest.raises(ImageError, match="continues in"):
        open_source(str(overlay), None)
    source = open_source(str(overlay), "qcow2")
    got = bytearray()
    for span in source.spans():
        got += bytes(span.size_bytes) if span.data is None else span.data
    assert got == content()
    source.close()


@needs_qemu
def test_a_broken_qemu_image_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + bytes(70_000))
    with pytest.raises(ImageError) as refused:
        open_source(str(broken), None)
    assert "\n" not in str(refused.value)


def test_verifying_notices_a_target_that_differs(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_at = DirectIoFile._write_at

    def flip(file: DirectIoFile, part: memoryview, offset_bytes: int) -> int:
        return write_at(file, memoryview(bytes(part[:-1]) + bytes([part[-1] ^ 1])), offset_bytes)

    monkeypatch.setattr(DirectIoFile, "_write_at", flip)
    # The flipped copy is not aligned.
    monkeypatch.setattr("ringblk.workers.backends.direct_open.set_direct", refuse)
    with pytest.raises(ImageError, match="read back"):
        copy(raw, tmp_path / "target.raw", "raw")
    assert [path.name for path in tmp_path.iterdir()] == ["source.raw"]


def refuse(fd: int) -> None:
    raise OSError(22, "Invalid argument")


def test_a_full_disk_leaves_nothing(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(file: DirectIoFile, part: memoryview, offset_bytes: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DirectIoFile, "_write_at", fill_up)
    with pytest.raises(OSError, match="No space left"):
        copy(raw, tmp_path / "target.raw", "raw")
    assert [path.name for path in tmp_path.iterdir()] == ["source.raw"]


def blocks(draw_zero: list[bool], tail_bytes: int) -> bytes:
    whole = b"".join(bytes(SPARSE_BLOCK_BYTES) if zero else b"\1" * SPARSE_BLOCK_BYTES for zero in draw_zero)
    return whole + bytes(tail_bytes)


@settings(deadline=None, max_examples=60)
@given(zeroes=st.lists(st.booleans(), max_size=8), tail_bytes=st.integers(0, SPARSE_BLOCK_BYTES - 1))
def test_splitting_keeps_content_and_finds_every_zero_block(zeroes: list[bool], tail_bytes: int) -> None:
    data = blocks(zeroes, tail_bytes)
    parts = list(split_zeroes(Span(5, len(data), memoryview(data))))
    assert b"".join(bytes(part.size_bytes) if part.data is None else part.data for part in parts) == data
    assert sum(part.size_bytes for part in parts if part.data is None) == sum(zeroes) * SPARSE_BLOCK_BYTES
    ends: Iterator[int] = iter(part.offset_bytes + part.size_bytes for part in parts)
    assert [5, *ends][: len(parts)] == [part.offset_bytes for part in parts]
    assert all((a.data is None) != (b.data is None) for a, b in itertools.pairwise(parts))


def test_formats_by_name() -> None:
    assert [format_of_name(name) for name in ("a.QCOW2", "b.raw.gz", "c.img", "d.zst", "e", "f.x")] == [
        "qcow2",
        "gzip",
        "raw",
        "zstd",
        None,
        None,
    ]
    assert [content_format_of_name(name) for name in ("a.raw.gz", "b.qcow2.xz", "c.gz")] == [
        "raw",
        "qcow2",
        None,
    ]
