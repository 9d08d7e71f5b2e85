"""How much of a file is served, and in what blocks."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.workers.backends import direct_io
from ringblk.workers.backends.direct_io import Alignment, DirectMode
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.topology import BlockTopology
from tests.rigs.image_file import MIB, has_o_direct, make_image


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
