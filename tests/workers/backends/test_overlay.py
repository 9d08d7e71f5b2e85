"""An overlay that is opened, refused, full, shared: what a model of its bytes does not show."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.layers.folder import DATA, LIVE, MAP
from ringblk.workers.layers.spare import SPARE

MIB = 1 << 20
BLOCK = b"b" * 4096


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.write_bytes(os.urandom(MIB))
    return path


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return tmp_path / "overlay"


def opened(base: Path, overlay: Path, size_bytes: int | None = None) -> OverlayBackend:
    backend = OverlayBackend(base, overlay, size_bytes=size_bytes)
    backend.image_lock().lock()
    return backend


def made(base: Path, overlay: Path) -> None:
    """An overlay with one block of its own, which is in its map."""
    backend = opened(base, overlay)
    backend.write_at(0, BLOCK)
    backend.flush()
    backend.close()


def change_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), offset)


def rewrite(base: Path, _: Path) -> None:
    base.write_bytes(base.read_bytes())


def replace(base: Path, _: Path) -> None:
    other = base.with_name("other")
    shutil.copy2(base, other)
    other.rename(base)


def shorten(base: Path, _: Path) -> None:
    os.truncate(base, MIB // 2)


def is_written(backend: OverlayBackend, block: int) -> bool:
    """Write a block; False where the disk is full."""
    try:
        backend.write_at(block * 4096, BLOCK)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


REFUSED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a base that was written to": (rewrite, "it was last written to at"),
    "another file in the base's place": (replace, "it was another file"),
    "a base of another size": (shorten, "it had 1048576 bytes and has 524288"),
    "no map": (lambda _, overlay: (overlay / MAP).unlink(), "has data and no map"),
    "no data": (lambda _, overlay: (overlay / DATA).unlink(), "has lost its data"),
    "data cut off": (lambda _, overlay: os.truncate(overlay / DATA, 4096), "its data has only 4096 bytes"),
    "a map cut off": (lambda _, overlay: os.truncate(overlay / MAP, 8192), "its map was cut off"),
    "another file for a map": (
        lambda _, overlay: (overlay / MAP).write_bytes(BLOCK),
        "is not the map of a layer",
    ),
    "a damaged superblock": (lambda _, overlay: change_byte(overlay / MAP, 33), "the checksum is wrong"),
    "a newer version": (
        lambda _, overlay: change_byte(overlay / MAP, 9),
        "has version 257, and this program knows 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(base: Path, overlay: Path, name: str) -> None:
    damage, message = REFUSED[name]
    made(base, overlay)
    damage(base, overlay)
    with pytest.raises(BackendError, match=message):
        opened(base, overlay)


def test_a_damaged_map_is_refused_once_it_counts(base: Path, overlay: Path) -> None:
    """A live map of this boot has all that the map has; what is flushed is compared with it."""
    made(base, overlay)
    change_byte(overlay / MAP, 528384 + 8)
    backend = opened(base, overlay)
    with pytest.raises(OSError, match="Input/output error"):
        backend.close()
    (overlay / LIVE).unlink()
    with pytest.raises(BackendError, match="unit 0 of its map is damaged"):
        opened(base, overlay)


def test_a_live_map_of_another_layer_does_not_count(base: Path, overlay: Path, tmp_path: Path) -> None:
    made(base, overlay)
    other = tmp_path / "other"
    opened(base, other).close()
    shutil.copy(other / LIVE, overlay / LIVE)
    backend = opened(base, overlay)
    assert backend.state(0) == 3
    backend.close()


def test_a_journal_of_another_layer_does_not_count(base: Path, overlay: Path, tmp_path: Path) -> None:
    made(base, overlay)
    other = tmp_path / "other"
    opened(base, other).close()
    with (overlay / MAP).open("rb") as source, (other / MAP).open("r+b") as target:
        os.pwrite(target.fileno(), os.pread(source.fileno(), 1024 * 512, 4096), 4096)
    (other / LIVE).unlink()
    backend = opened(base, other)
    assert backend.state(0) == 0
    backend.close()


def test_a_folder_with_other_things_in_it_is_left_alone(base: Path, overlay: Path) -> None:
    overlay.mkdir()
    (overlay / "notes").write_text("mine")
    with pytest.raises(BackendError, match="it has notes"):
        opened(base, overlay)
    assert [path.name for path in overlay.iterdir()] == ["notes"]


def test_an_empty_folder_becomes_an_overlay(base: Path, overlay: Path) -> None:
    overlay.mkdir()
    made(base, overlay)


@pytest.mark.parametrize("step", ["data alone", "a map without its name"])
def test_an_overlay_that_was_not_made_to_the_end_is_made_anew(base: Path, overlay: Path, step: str) -> None:
    overlay.mkdir()
    with (overlay / DATA).open("wb") as file:
        file.truncate(4096)
    if step != "data alone":
        (overlay / "map.new").write_bytes(BLOCK)
    made(base, overlay)
    assert sorted(path.name for path in overlay.iterdir()) == [DATA, LIVE, MAP, SPARE]


def test_another_size_than_it_has_is_refused(base: Path, overlay: Path) -> None:
    opened(base, overlay, 2 * MIB).close()
    with pytest.raises(BackendError, match="has 2097152 bytes, not 4096"):
        opened(base, overlay, 4096)
    assert opened(base, overlay).size_bytes == 2 * MIB


def test_a_base_that_another_writes_to_is_refused(base: Path, overlay: Path) -> None:
    writer = FileBackend(base)
    writer.image_lock().lock()
    with pytest.raises(BackendError, match="another program writes to it"):
        opened(base, overlay)
    assert not overlay.exists()
    writer.close()
    first, second = opened(base, overlay), opened(base, overlay.with_name("second"))
    first.close()
    second.close()


def test_an_overlay_without_snapshots_is_no_base(base: Path, overlay: Path) -> None:
    made(base, overlay)
    with pytest.raises(BackendError, match="say which snapshot of it is the base"):
        OverlayBackend(overlay, overlay.with_name("second"))


def test_a_full_disk_is_an_error_and_nothing_changes(base: Path, overlay: Path, tmp_path: Path) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False
    ).returncode:
        pytest.skip("mounting needs root")
    try:
        backend = OverlayBackend(base, disk / "overlay")
        backend.image_lock().lock()
        written = 0
        while is_written(backend, written):
            written += 1
        assert 0 < written < MIB // 4096
        whole = bytearray(MIB)
        backend.read_at(0, whole)
        assert whole == BLOCK * written + base.read_bytes()[written * 4096 :]
        for fd in backend.fds[2:]:
            os.close(fd)
        del backend
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_blocks_that_are_in_no_layer_take_no_space(base: Path, overlay: Path) -> None:
    backend = opened(base, overlay, 100 << 30)
    whole = bytearray(MIB)
    backend.read_at(0, whole)
    assert whole == base.read_bytes()
    used = sum((overlay / name).stat().st_blocks * 512 for name in (DATA, MAP, LIVE))
    assert used <= 100 << 10
    backend.write_at(50 << 30, BLOCK)
    backend.flush()
    backend.close()
    assert sum((overlay / name).stat().st_blocks * 512 for name in (DATA, MAP, LIVE)) <= 120 << 10
