"""What can go wrong with a file, and what can't be seen by reading back."""

import errno
import fcntl
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
from ringblk.workers.backends.image_lock import ImageLocked, lock_image
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.topology import BlockTopology

MIB = 1 << 20


def make_image(directory: Path, size_bytes: int) -> Path:
    path = directory / "image"
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def refuse(fd: int) -> Alignment:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def has_o_direct(fd: int) -> bool:
    flags = Path(f"/proc/self/fdinfo/{fd}").read_text().split("flags:")[1].split()[0]
    return bool(int(flags, 8) & os.O_DIRECT)


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


def test_size_that_direct_io_can_not_end_at(shm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "find_alignment", lambda fd: Alignment(4096, 512))
    path = make_image(shm_path, 4096 + 512)
    backend = FileBackend(path)
    assert not backend.direct
    assert not has_o_direct(backend.fileno())
    backend.write_at(4096, b"z" * 512)
    assert path.stat().st_size == 4096 + 512
    with pytest.raises(BackendError, match="no multiple of 4096"):
        FileBackend(path, direct="on")


@pytest.mark.parametrize(
    ("size_bytes", "message"), [(0, "is empty"), (1, "has only 1 bytes"), (511, "has only 511 bytes")]
)
def test_bad_size(tmp_path: Path, size_bytes: int, message: str) -> None:
    path = make_image(tmp_path, size_bytes)
    with pytest.raises(BackendError, match=f"{path}: {message}"):
        FileBackend(path)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("direct", ["auto", "off"])
@pytest.mark.parametrize("size_bytes", [1000, 4096 + 1, 3 * 4096 - 1, MIB + 2 * 512 + 100])
def test_what_is_no_whole_sector_is_not_served_nor_touched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size_bytes: int, direct: DirectMode, read_only: bool
) -> None:
    path = make_image(tmp_path, size_bytes)
    content = bytes(range(256)) * (size_bytes // 256 + 1)
    path.write_bytes(content[:size_bytes])
    with caplog.at_level(logging.WARNING):
        backend = FileBackend(path, direct=direct, read_only=read_only)
    served_bytes = size_bytes // 512 * 512
    assert backend.size_bytes == backend.measure() == served_bytes
    assert f"the guest does not see the last {size_bytes - served_bytes} bytes" in caplog.text
    found = bytearray(served_bytes)
    backend.read_at(0, found)
    assert found == content[:served_bytes]
    with pytest.raises(ValueError, match="lie outside"):
        backend.read_at(served_bytes, bytearray(512))
    if not read_only:
        for may_unmap in (False, True):
            backend.write_at(served_bytes - 512, b"z" * 512)
            backend.write_zeroes(served_bytes - 512, 512, may_unmap=may_unmap)
        backend.discard(0, served_bytes)
        backend.write_at(0, b"y" * served_bytes)
        backend.flush()
        assert path.read_bytes() == b"y" * served_bytes + content[served_bytes:size_bytes]
    backend.close()


@pytest.mark.parametrize("direct", ["auto", "off"])
@pytest.mark.parametrize("tail_bytes", [512, 3584])
def test_what_is_no_whole_block_of_a_device_is_not_served(
    loop_device: Callable[[int, int], Path],
    caplog: pytest.LogCaptureFixture,
    direct: DirectMode,
    tail_bytes: int,
) -> None:
    device = loop_device(MIB + tail_bytes, 4096)
    with caplog.at_level(logging.WARNING):
        backend = FileBackend(device, direct=direct)
    try:
        assert backend.size_bytes == backend.measure() == MIB
        assert backend.direct == (direct == "auto")
        assert f"the guest does not see the last {tail_bytes} bytes: no whole block of 4096" in caplog.text
        backend.write_at(MIB - 512, b"z" * 512)
        backend.read_at(MIB - 4096, bytearray(4096))
    finally:
        backend.close()


def test_blocks_of_a_file_whose_direct_io_is_by_4096_bytes(
    shm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reflinked file on XFS: its sectors stay what they were, its physical blocks are what is told."""
    monkeypatch.setattr(direct_io, "find_alignment", lambda fd: Alignment(4096, 512))
    backend = FileBackend(make_image(shm_path, MIB))
    assert backend.block_size_bytes == 4096
    assert backend.topology == BlockTopology(
        physical_block_bytes=4096, minimum_io_bytes=4096, discard_granularity_bytes=4096
    )


@pytest.mark.parametrize("stated_bytes", [512, 4096, 16384])
def test_blocks_of_a_file_without_direct_io(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated_bytes: int
) -> None:
    """What direct I/O would ask for is told all the same, and what the file system's blocks are."""
    monkeypatch.setattr(direct_io, "read_statx_alignment", lambda fd: Alignment(stated_bytes, 4))
    path = make_image(tmp_path, MIB)
    block_bytes = min(path.stat().st_blksize, 4096)
    backend = FileBackend(path, direct="off")
    assert backend.block_size_bytes == backend.topology.logical_block_bytes == 512
    assert backend.topology.physical_block_bytes == max(stated_bytes, block_bytes)


@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_blocks_of_a_device(loop_device: Callable[[int, int], Path], block_bytes: int) -> None:
    device = loop_device(MIB, block_bytes)
    backend = FileBackend(device)
    queue = Path("/sys/block") / device.name / "queue"

    def told(name: str) -> int:
        return int((queue / name).read_text())

    topology = backend.topology
    backend.close()
    assert topology.logical_block_bytes == told("logical_block_size") == block_bytes
    assert topology.physical_block_bytes == told("physical_block_size")
    assert topology.minimum_io_bytes == told("minimum_io_size")
    assert topology.optimal_io_bytes == told("optimal_io_size")
    assert topology.discard_granularity_bytes == told("discard_granularity") > 0


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


@pytest.mark.parametrize("by_name", [False, True])
def test_a_descriptor_stays_the_callers(tmp_path: Path, by_name: bool) -> None:
    path = make_image(tmp_path, MIB)
    path.write_bytes(b"o" * MIB)
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    os.lseek(fd, 100, os.SEEK_SET)
    before = fcntl.fcntl(fd, fcntl.F_GETFL)
    backend = FileBackend(f"/dev/fd/{fd}" if by_name else fd)
    assert path.stat().st_size == backend.size_bytes == MIB
    backend.write_at(4096, b"n" * 512)
    assert path.read_bytes() == b"o" * 4096 + b"n" * 512 + b"o" * (MIB - 4608)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) == before
    assert os.lseek(fd, 0, os.SEEK_CUR) == 100
    backend.close()
    os.close(fd)


def test_the_lock_of_two_backends_on_one_descriptor_is_not_one_lock(tmp_path: Path) -> None:
    fd = os.open(make_image(tmp_path, MIB), os.O_RDWR)
    first, second = FileBackend(fd), FileBackend(fd)
    lock_image(first.fileno(), read_only=False)
    with pytest.raises(ImageLocked):
        lock_image(second.fileno(), read_only=False)
    os.close(fd)


def test_a_descriptor_gives_no_more_than_it_has(tmp_path: Path) -> None:
    path = make_image(tmp_path, MIB)
    reading, writing = os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
    with pytest.raises(BackendError, match=f"/dev/fd/{reading}: can't open it: it is open for reading only"):
        FileBackend(f"/dev/fd/{reading}")
    with pytest.raises(
        BackendError, match=f"descriptor {writing}: can't open it: it is open for writing only"
    ):
        FileBackend(writing, read_only=True)
    assert FileBackend(reading, read_only=True).size_bytes == MIB
    pipe = os.pipe()
    with pytest.raises(BackendError, match="neither a regular file nor a block device"):
        FileBackend(pipe[0], read_only=True)
    with pytest.raises(BackendError, match="Bad file descriptor"):
        FileBackend(777)
    for fd in (reading, writing, *pipe):
        os.close(fd)


def test_a_descriptor_of_what_may_not_be_opened_is_duplicated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fd = os.open(make_image(tmp_path, MIB), os.O_RDWR)
    appending = os.open(tmp_path / "image", os.O_RDWR | os.O_APPEND)

    def refuse_to_open(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse_to_open)
        backend = FileBackend(fd)
        with pytest.raises(BackendError, match="it is open for appending"):
            FileBackend(appending)
    assert "cannot be opened again" in caplog.text
    backend.write_at(512, b"d" * 512)
    backend.close()
    assert os.pread(fd, 512, 512) == b"d" * 512
    os.close(fd)
    os.close(appending)
