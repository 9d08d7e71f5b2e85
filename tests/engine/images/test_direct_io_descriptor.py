"""A DirectIoFile on a descriptor of the caller's."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.engine.images.direct_io_file import DirectIoFile
from ringblk.workers.backends.direct_io import DirectMode

BUFFER_BYTES = 16384  # four blocks: few bytes make many buffers


def flags_of(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("direct", ["auto", "off"])
def test_a_descriptor_is_wrapped_and_nothing_emptied(
    tmp_path: Path, by_name: bool, direct: DirectMode
) -> None:
    path = tmp_path / "target"
    path.write_bytes(b"old " * 5000)
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 1234, os.SEEK_SET)
    other = os.dup(fd)  # shares the open file description, flags and position
    before = flags_of(other)
    with DirectIoFile(f"/dev/fd/{fd}" if by_name else fd, direct=direct) as file:
        assert path.stat().st_size == 20_000
        file.write(b"n" * 5000)
        file.write_zeroes(5000)
    expected = b"n" * 5000 + bytes(5000) + (b"old " * 5000)[10_000:]
    assert path.read_bytes() == expected
    assert flags_of(other) == before
    assert os.lseek(other, 0, os.SEEK_CUR) == 1234
    if by_name:
        os.close(fd)
    else:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    os.close(other)


def test_a_descriptor_without_a_name_is_wrapped(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDWR | os.O_TMPFILE)
    copy = os.dup(fd)
    with DirectIoFile(fd, buffer_bytes=BUFFER_BYTES) as file:
        file.write(b"v" * 50_001)
    assert os.pread(copy, 60_000, 0) == b"v" * 50_001
    os.close(copy)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (os.O_RDONLY, "is open for reading only"),
        (os.O_RDWR | os.O_APPEND, "is open for appending"),
    ],
)
def test_a_descriptor_that_will_not_do_is_left_alone(
    tmp_path: Path, flags: int, said: str, by_name: bool
) -> None:
    path = tmp_path / "target"
    path.write_bytes(b"precious")
    fd = os.open(path, flags)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=said):
        DirectIoFile(f"/dev/fd/{fd}" if by_name else fd)
    with pytest.raises(ValueError, match="exists already"):
        DirectIoFile(fd, exclusive=True)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert path.read_bytes() == b"precious"
    os.close(fd)


def test_a_pipe_is_no_file() -> None:
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="neither a regular file nor a block device"):
        DirectIoFile(writing)
    os.close(reading)
    os.close(writing)


def test_a_block_device_is_wrapped(loop_device: Callable[[int, int], Path]) -> None:
    device = loop_device(1 << 20, 512)
    device.write_bytes(b"w" * (1 << 20))
    with DirectIoFile(os.open(device, os.O_RDWR), buffer_bytes=BUFFER_BYTES) as file:
        file.write(b"x" * 5000)
        file.write_zeroes(100_000)
        file.write(b"y")
    assert device.read_bytes() == b"x" * 5000 + bytes(100_000) + b"y" + b"w" * ((1 << 20) - 105_001)
