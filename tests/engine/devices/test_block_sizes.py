"""What a guest is told of blocks, and what it may do whatever they are."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.engine.frontend.backend import engine_command
from ringblk.engine.frontend.frontend import Frontend
from ringblk.workers.backends.direct_io import read_statx_alignment
from ringblk.workers.block.config_space import BlockConfigSpace
from tests.rigs.image_file import MIB


def blocks(config: BlockConfigSpace) -> tuple[int, int, int, int, int]:
    """blk_size, and physical block, minimum, optimal I/O and granularity of DISCARD in bytes."""
    return (
        config.blk_size,
        config.blk_size << config.physical_block_exp,
        config.min_io_size * config.blk_size,
        config.opt_io_size * config.blk_size,
        config.discard_sector_alignment * 512,
    )


@pytest.fixture
def coarse_file(tmp_path: Path, loop_device: Callable[[int, int], Path]) -> Iterator[Path]:
    """A file whose direct I/O is by 4096 bytes: on a file system on a device with such sectors."""
    device = loop_device(16 * MIB, 4096)
    point = tmp_path / "coarse"
    point.mkdir()
    for command in (["mkfs.ext4", "-q", "-b", "4096", str(device)], ["mount", str(device), str(point)]):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system on a loop device: {error}")
    path = point / "image"
    path.write_bytes(bytes(MIB))
    yield path
    subprocess.run(["umount", str(point)], check=True)


def test_a_file_whose_direct_io_is_coarse_keeps_its_sectors(coarse_file: Path) -> None:
    with coarse_file.open("rb") as file:
        alignment = read_statx_alignment(file.fileno())
    assert alignment is None or alignment.offset_bytes == 4096
    with Frontend(engine_command(f"--blk-file={coarse_file}", "--direct=on")) as disk:
        assert blocks(disk.config) == (512, 4096, 4096, 0, 4096)
        disk.write(0, b"a" * 8192)
        disk.write(512, b"b" * 512)
        disk.write(4096 - 512, b"c" * 1024)
        disk.write_zeroes(1024, 512)
        assert disk.read(0, 8192) == (
            b"a" * 512 + b"b" * 512 + bytes(512) + b"a" * 2048 + b"c" * 1024 + b"a" * 3584
        )
        disk.write(MIB - 512, b"z" * 512)
        assert disk.read(MIB - 1024, 1024) == bytes(512) + b"z" * 512
    assert coarse_file.stat().st_size == MIB


def test_a_device_keeps_its_sectors(loop_device: Callable[[int, int], Path]) -> None:
    for block_bytes in (512, 4096):
        device = loop_device(MIB, block_bytes)
        with Frontend(engine_command(f"--blk-file={device}")) as disk:
            assert disk.config.blk_size == block_bytes
            assert disk.capacity_bytes == MIB


@pytest.mark.parametrize("direct", ["auto", "off"])
@pytest.mark.parametrize("logical_bytes", [512, 4096])
def test_the_end_of_a_device_of_odd_size(
    loop_device: Callable[[int, int], Path], direct: str, logical_bytes: int
) -> None:
    device = loop_device(MIB + 512, 4096)
    options = (f"--direct={direct}", f"--logical-block-size={logical_bytes}")
    with Frontend(engine_command(f"--blk-file={device}", *options)) as disk:
        assert disk.capacity_bytes == MIB
        disk.write(MIB - 512, b"z" * 512)
        assert disk.read(MIB - 1024, 1024) == bytes(512) + b"z" * 512


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (512, 512, 512, 0, 512)),
        (("--logical-block-size=4096",), (4096, 4096, 4096, 0, 4096)),
        (("--physical-block-size=4096",), (512, 4096, 4096, 0, 512)),
        (("--logical-block-size=1024", "--physical-block-size=16384"), (1024, 16384, 16384, 0, 1024)),
    ],
)
def test_options_stand_over_what_storage_says(options: tuple[str, ...], expected: tuple[int, ...]) -> None:
    command = engine_command("--backend=memory", f"--backend-arg=size_bytes={MIB}", *options)
    with Frontend(command) as disk:
        assert blocks(disk.config) == expected


@pytest.mark.parametrize("read_only", [False, True])
def test_an_image_of_odd_size_is_served_and_keeps_it(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * (MIB + 700))
    with Frontend(engine_command(f"--blk-file={path}", *["--read-only"] * read_only)) as disk:
        assert disk.capacity_bytes == MIB + 512
        assert disk.read(MIB, 512) == b"x" * 512
        if not read_only:
            disk.write(0, b"y" * (MIB + 512))
    assert path.read_bytes() == (b"x" if read_only else b"y") * (MIB + 512) + b"x" * 188
