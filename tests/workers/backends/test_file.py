"""What can go wrong with a file, and what can't be seen by reading back."""

import errno
import logging
import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.workers.backends import direct_io
from ringblk.workers.backends.direct_io import Alignment, DirectMode
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.interface import BackendError
from tests.rigs.image_file import MIB, has_o_direct, make_image


def refuse(fd: int) -> Alignment:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.mark.parametrize("direct", ["auto", "off"])
def test_descriptor(tmp_path: Path, direct: DirectMode) -> None:
    backend = FileBackend(make_image(tmp_path, MIB), direct=direct)
    assert has_o_direct(backend.fileno()) == backend.direct
    assert not os.get_inheritable(backend.fileno())
    assert os.get_blocking(backend.fileno())
    if direct == "off":
        assert not backend.direct
        assert backend.memory_alignment_bytes == 1
        assert backend.block_size_bytes == 512


def test_close(tmp_path: Path) -> None:
    backend = FileBackend(make_image(tmp_path, 512))
    fd = backend.fileno()
    backend.close()
    backend.close()
    assert backend.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_failed_constructor_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BackendError):
        FileBackend(make_image(tmp_path, 511))
    assert os.listdir("/proc/self/fd") == before


def test_auto_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(direct_io, "set_direct", refuse)
    path = make_image(tmp_path, 4096)
    with caplog.at_level(logging.WARNING):
        backend = FileBackend(path, direct="auto")
    assert not backend.direct
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: can't have direct I/O: Invalid argument; going on without"
    ]
    backend.write_at(1, b"x")
    with pytest.raises(BackendError, match=f"{path}: can't have direct I/O: Invalid argument"):
        FileBackend(path, direct="on")


def test_file_system_that_refuses_direct_io() -> None:
    path = next(p for p in sorted(Path("/sys/kernel").iterdir()) if p.is_file() and p.stat().st_size == 4096)
    assert not FileBackend(path, read_only=True).direct
    with pytest.raises(BackendError, match="can't have direct I/O: Invalid argument"):
        FileBackend(path, read_only=True, direct="on")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=f"{tmp_path}/none: can't open it: No such file"):
        FileBackend(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for read_only in (False, True):
        with pytest.raises(BackendError, match="pipe: neither a regular file nor a block device"):
            FileBackend(tmp_path / "pipe", read_only=read_only)
    with pytest.raises(BackendError, match="can't open it: Is a directory"):
        FileBackend(tmp_path)


def test_bad_direct(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="direct is 'maybe'"):
        FileBackend(make_image(tmp_path, 512), direct="maybe")  # type: ignore[arg-type]


def test_read_only(tmp_path: Path) -> None:
    path = make_image(tmp_path, 4096)
    path.chmod(0o400)
    backend = FileBackend(path, read_only=True)
    assert backend.read_only
    backend.read_at(1, bytearray(4000))
    backend.flush()
    writes: list[Callable[[], None]] = [
        lambda: backend.write_at(0, bytes(512)),
        lambda: backend.write_zeroes(0, 512),
        lambda: backend.discard(0, 512),
    ]
    for write in writes:
        with pytest.raises(OSError, match="Read-only") as caught:
            write()
        assert caught.value.errno == errno.EROFS


@pytest.mark.parametrize("direct", ["auto", "off"])
@pytest.mark.parametrize("left_bytes", [0, 100, 512, 4096])
def test_file_that_was_cut(tmp_path: Path, direct: DirectMode, left_bytes: int) -> None:
    path = make_image(tmp_path, 16384)
    backend = FileBackend(path, direct=direct)
    os.truncate(path, left_bytes)
    for offset, length in [(0, 8192), (4096, 4096), (8192, 512), (1, 5000)]:
        with pytest.raises(OSError, match="Input/output") as caught:
            backend.read_at(offset, bytearray(length))
        assert caught.value.errno == errno.EIO


def test_file_system_that_is_full(mount: Callable[..., Path]) -> None:
    backend = FileBackend(make_image(mount("tmpfs", "size=256k"), MIB))
    with mmap.mmap(-1, MIB) as data:
        for offset in (0, 3):
            with pytest.raises(OSError, match="No space left"):
                backend.write_at(offset, memoryview(data)[: MIB - 512])
        with pytest.raises(OSError, match="No space left"):
            backend.write_zeroes(0, MIB)
    backend.write_zeroes(0, MIB, may_unmap=True)
    backend.write_at(0, bytes(4096))
    backend.close()


def test_write_that_stops_in_the_middle(shm_path: Path) -> None:
    """A short write is continued; what then fails is the request's failure."""
    path = make_image(shm_path, MIB)
    backend = FileBackend(path, direct="off")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            backend.write_ranges(0, [b"a" * 4096, b"b" * 4096, b"c" * 4096])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes()[4999:5001] == b"b\0"


def test_more_than_one_system_call_can_do(shm_path: Path) -> None:
    """Linux moves at most 2 GiB less a page at a time."""
    count, piece_bytes = 32, 64 * MIB
    path = make_image(shm_path, count * piece_bytes)
    backend = FileBackend(path, direct="off")
    backend.write_at(count * piece_bytes - 512, b"e" * 512)
    with mmap.mmap(-1, piece_bytes) as piece:
        backend.read_ranges(0, [piece] * count)
        assert piece[-513:] == b"\0" + b"e" * 512


@pytest.mark.parametrize("offset", [1, 511, 513, 4095, MIB - 1])
def test_longer_than_the_bounce_buffer(tmp_path: Path, offset: int) -> None:
    size = 4 * MIB
    backend = FileBackend(make_image(tmp_path, size))
    backend.write_at(0, b"\x11" * size)
    data = os.urandom(5 * MIB // 2 + 7)
    backend.write_at(offset, data)
    after = bytearray(size)
    backend.read_at(0, after)
    assert after == b"\x11" * offset + data + b"\x11" * (size - offset - len(data))
    part = bytearray(len(data))
    backend.read_at(offset, part)
    assert part == data


def test_discard_gives_space_back(shm_path: Path) -> None:
    path = make_image(shm_path, MIB)
    backend = FileBackend(path)
    backend.write_at(0, b"x" * MIB)
    full = path.stat().st_blocks
    backend.discard(MIB // 2, MIB // 2)
    assert path.stat().st_blocks == full // 2
    backend.write_zeroes(0, MIB // 4, may_unmap=True)
    assert path.stat().st_blocks == full // 4
    backend.write_zeroes(0, MIB, may_unmap=False)
    assert path.stat().st_blocks == full
    assert path.stat().st_size == MIB


def test_resize(tmp_path: Path) -> None:
    path = make_image(tmp_path, 8192)
    backend = FileBackend(path, direct="off")
    backend.write_at(0, b"\1" * 8192)
    backend.resize(16384)
    assert (backend.size_bytes, backend.measure(), path.stat().st_size) == (16384, 16384, 16384)
    content = bytearray(16384)
    backend.read_at(0, content)
    assert content == b"\1" * 8192 + bytes(8192)
    backend.resize(4096)
    assert path.read_bytes() == b"\1" * 4096
    with pytest.raises(ValueError, match="lie outside 4096"):
        backend.read_at(4096, content)


def test_resize_of_what_is_read_only(tmp_path: Path) -> None:
    path = make_image(tmp_path, 8192)
    backend = FileBackend(path, read_only=True)
    with pytest.raises(BackendError, match="reading only"):
        backend.resize(4096)
    assert path.stat().st_size == backend.size_bytes == 8192
    os.truncate(path, 12288)
    assert backend.measure() == 12288


def test_resize_of_a_block_device(loop_device: Callable[[int, int], Path]) -> None:
    backend = FileBackend(loop_device(MIB, 512))
    with pytest.raises(BackendError, match=f"the device has {MIB} bytes"):
        backend.resize(MIB + 512)
    backend.resize(MIB // 2)
    assert (backend.size_bytes, backend.measure()) == (MIB // 2, MIB)
    backend.close()


def test_read_only_block_device(loop_device: Callable[[int, int], Path]) -> None:
    device = loop_device(MIB, 512)
    subprocess.run(["blockdev", "--setro", str(device)], check=True)
    try:
        with pytest.raises(BackendError, match=f"{device}: is a read-only device"):
            FileBackend(device)
        backend = FileBackend(device, read_only=True)
        backend.read_at(0, bytearray(MIB))
        backend.close()
    finally:
        subprocess.run(["blockdev", "--setrw", str(device)], check=True)  # it outlives the loop device


def test_workers_share_the_descriptor(tmp_path: Path) -> None:
    """What a forked worker writes, at its own place, another one reads."""
    backend = FileBackend(make_image(tmp_path, MIB))
    children = []
    for worker in range(4):
        child = os.fork()
        if child == 0:
            for block in range(worker, 256, 4):
                backend.write_at(block * 4096, bytes([block]) * 4096)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    after = bytearray(MIB)
    backend.read_at(0, after)
    assert after == b"".join(bytes([block]) * 4096 for block in range(256))


@pytest.mark.skipif(sys.platform != "linux", reason="statx")
class TestAlignment:
    """What set_direct finds out."""

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR)

    def test_tried_where_nobody_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(direct_io, "read_statx_alignment", lambda fd: None)
        fd = self.open(make_image(tmp_path, 8192))
        try:
            tried = direct_io.find_alignment(fd)
            assert tried.offset_bytes in (512, 4096)
            assert tried.memory_bytes == tried.offset_bytes
        finally:
            os.close(fd)

    def test_stated_by_statx(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fd = self.open(make_image(tmp_path, 8192))
        try:
            monkeypatch.setattr(direct_io, "read_statx_alignment", lambda fd: Alignment(4096, 4))
            assert direct_io.set_direct(fd) == Alignment(4096, 4)
            assert has_o_direct(fd)
            direct_io.unset_direct(fd)
            monkeypatch.setattr(direct_io, "read_statx_alignment", lambda fd: Alignment(0, 0))
            with pytest.raises(OSError, match="Invalid argument"):
                direct_io.set_direct(fd)
            assert not has_o_direct(fd)
        finally:
            os.close(fd)

    def test_every_size_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []

        def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
            sizes.append(len(buffers[0]))
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr(os, "preadv", preadv)
        with pytest.raises(OSError, match="Invalid argument"):
            direct_io.try_alignments(0)
        assert sizes == [512, 4096]
