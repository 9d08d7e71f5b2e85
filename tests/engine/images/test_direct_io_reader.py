"""DirectIoReader against the file's own bytes, holes and faults included."""

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.engine.images.direct_io_reader import DirectIoReader
from ringblk.workers.backends.direct_io import DirectMode

BUFFER_BYTES = 16384
PIECES = st.lists(st.tuples(st.booleans(), st.integers(1, 5 * BUFFER_BYTES)), max_size=8)


def make_file(path: Path, pieces: list[tuple[bool, int]]) -> bytes:
    """Write pieces of data and of holes; return what the file reads as."""
    content = bytearray()
    with path.open("wb") as file:
        for number, (is_hole, size_bytes) in enumerate(pieces):
            data = bytes(size_bytes) if is_hole else random.Random(number).randbytes(size_bytes)
            if is_hole:
                file.seek(size_bytes, os.SEEK_CUR)
            else:
                file.write(data)
            content += data
        file.truncate(len(content))
    return bytes(content)


@settings(deadline=None, max_examples=40)
@given(pieces=PIECES, direct=st.sampled_from(["auto", "off"]))
def test_spans_make_the_file(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[bool, int]], direct: DirectMode
) -> None:
    path = tmp_path_factory.mktemp("reader") / "source"
    content = make_file(path, pieces)
    got = bytearray()
    with DirectIoReader(path, direct=direct, buffer_bytes=BUFFER_BYTES) as reader:
        for span in reader.spans():
            assert span.offset_bytes == len(got)
            assert span.data is None or len(span.data) == span.size_bytes
            got += bytes(span.size_bytes) if span.data is None else span.data
            assert reader.position_bytes == len(got)
    assert got == content


@settings(deadline=None, max_examples=40)
@given(pieces=PIECES, sizes=st.lists(st.integers(1, 2 * BUFFER_BYTES), min_size=1, max_size=6))
def test_reads_of_any_size_make_the_file(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[bool, int]], sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("reader") / "source"
    content = make_file(path, pieces)
    got = bytearray()
    with DirectIoReader(path, buffer_bytes=BUFFER_BYTES) as reader:
        for number in range(len(content) + 2):
            data = reader.read(sizes[number % len(sizes)])
            if not data:
                break
            got += data
    assert got == content


def test_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "source"
    make_file(path, [(True, 64 << 20), (False, 4096), (True, 64 << 20)])

    class CountingReader(DirectIoReader):
        read_bytes = 0

        def _read_at(self, part: memoryview, offset_bytes: int) -> int:
            self.read_bytes += len(part)
            return super()._read_at(part, offset_bytes)

    with CountingReader(path) as reader:
        assert sum(span.size_bytes for span in reader.spans()) == (128 << 20) + 4096
        assert reader.read_bytes <= 1 << 20


def test_a_failed_read_surfaces_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "source"
    content = make_file(path, [(False, 4 * BUFFER_BYTES)])

    class FaultyReader(DirectIoReader):
        def _read_at(self, part: memoryview, offset_bytes: int) -> int:
            if offset_bytes >= 2 * BUFFER_BYTES:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super()._read_at(part, offset_bytes)

    with FaultyReader(path, buffer_bytes=BUFFER_BYTES) as reader:
        got = bytearray()
        for _ in range(2):
            span = reader.next_span()
            assert span is not None
            assert span.data is not None
            got += span.data
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                reader.next_span()
    assert got == content[: 2 * BUFFER_BYTES]


def test_a_file_that_gets_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "source"
    make_file(path, [(False, 8 * BUFFER_BYTES)])
    with DirectIoReader(path, buffer_bytes=BUFFER_BYTES) as reader:
        assert reader.next_span() is not None
        os.truncate(path, 3 * BUFFER_BYTES + 100)
        with pytest.raises(OSError, match="got shorter"):
            list(reader.spans())


def test_closing_early_and_twice(tmp_path: Path) -> None:
    path = tmp_path / "source"
    make_file(path, [(False, 8 * BUFFER_BYTES)])
    reader = DirectIoReader(path, buffer_bytes=BUFFER_BYTES)
    reader.next_span()
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.next_span()
