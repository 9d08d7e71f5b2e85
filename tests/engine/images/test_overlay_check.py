"""What is wrong with an overlay is found; what can be repaired is, and then nothing is lost of it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay_check import check_overlay
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.layers.folder import DATA, LIVE, MAP
from tests.rigs.image_command import run_image
from tests.rigs.overlay_chain import KnownOverlay, Write, content_at

SIZE_BYTES = 3000 * 4096
MAP_OFFSET = 528384


@pytest.fixture
def overlay(shm_path: Path) -> KnownOverlay:
    made = KnownOverlay(shm_path / "one", 1000 * 4096, SIZE_BYTES)
    made.snapshot("monday", [Write(1, 3), Write(2100, 2)])
    made.snapshot("tuesday", [Write(2, 3, True), Write(2999, 1)])
    return made


def layer_folder(overlay: KnownOverlay, name: str) -> Path:
    from ringblk.engine.images.overlay import OverlayImage

    with OverlayImage(str(overlay.folder), name) as image:
        return overlay.folder / image.layers[0].layer.folder


def change_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), offset)


def test_nothing_is_wrong_with_a_sound_one(overlay: KnownOverlay, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_overlay(str(overlay.folder), repair=False) == []
    assert run_image("check", overlay.folder) == 0
    assert capsys.readouterr() == ("", "")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a unit of the map": (
        lambda folder: change_byte(folder / MAP, MAP_OFFSET + 9),
        "unit 0 of its map is damaged",
    ),
    "a superblock": (lambda folder: change_byte(folder / MAP, 33), "superblock is damaged"),
    "no map": (lambda folder: (folder / MAP).unlink(), "has lost its map"),
    "no data": (lambda folder: (folder / DATA).unlink(), "has lost its data"),
    "data that are cut off": (
        lambda folder: os.truncate(folder / DATA, 4096),
        "its data has only 4096 bytes",
    ),
    "no layer": (shutil.rmtree, "has lost layer-"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_that_nothing_repairs_is_told_and_left(overlay: KnownOverlay, damage: str) -> None:
    do_damage, reason = DAMAGES[damage]
    do_damage(layer_folder(overlay, "monday"))
    for repair in (False, True):
        (finding,) = check_overlay(str(overlay.folder), repair=repair)
        assert reason in finding.what
        assert not finding.is_repaired
    with pytest.raises((ImageError, OSError)):
        content_at(overlay.folder)


def test_swapped_layers_are_found(overlay: KnownOverlay) -> None:
    one, other = (layer_folder(overlay, name) for name in ("monday", "tuesday"))
    spare = one.with_name("spare")
    for source, target in ((one, spare), (other, one), (spare, other)):
        source.rename(target)
    findings = check_overlay(str(overlay.folder), repair=True)
    assert ["belongs" in finding.what for finding in findings] == [True, True]
    with pytest.raises(ImageError, match="belongs"):
        content_at(overlay.folder)


def test_a_layer_of_another_drive_is_found(overlay: KnownOverlay, shm_path: Path) -> None:
    other = KnownOverlay(shm_path / "two", 1000 * 4096, SIZE_BYTES)
    other.snapshot("monday", [Write(1, 3)])
    shutil.rmtree(layer_folder(overlay, "monday"))
    shutil.copytree(layer_folder(other, "monday"), overlay.folder / layer_name(overlay))
    (finding,) = check_overlay(str(overlay.folder), repair=True)
    assert "belongs" in finding.what


def layer_name(overlay: KnownOverlay) -> str:
    """The name of the folder that is missing."""
    (finding,) = check_overlay(str(overlay.folder), repair=False)
    return "layer-" + finding.what.partition("layer-")[2].partition(":")[0]


def test_a_damaged_chain_is_refused(overlay: KnownOverlay, capsys: pytest.CaptureFixture[str]) -> None:
    change_byte(overlay.folder / "chain", 300)
    assert run_image("check", overlay.folder) == 1
    assert "its chain is damaged" in capsys.readouterr().err


def test_what_was_left_of_an_operation_is_removed(overlay: KnownOverlay) -> None:
    stray = overlay.folder / f"layer-{'ab' * 16}"
    shutil.copytree(layer_folder(overlay, "monday"), stray)
    (finding,) = check_overlay(str(overlay.folder), repair=False)
    assert finding.can_be_repaired
    assert stray.exists()
    (finding,) = check_overlay(str(overlay.folder), repair=True)
    assert finding.is_repaired
    assert not stray.exists()
    assert check_overlay(str(overlay.folder), repair=False) == []


def test_a_map_is_repaired_from_the_live_map(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, folder = shm_path / "base", shm_path / "overlay"
    base.write_bytes(os.urandom(1 << 20))
    backend = OverlayBackend(base, folder, direct="off")
    backend.image_lock().lock()
    backend.write_at(4096, b"x" * 8192)
    backend.write_zeroes(65536, 8192)
    backend.close()
    content = content_at(folder)
    change_byte(folder / MAP, MAP_OFFSET + 9)
    assert run_image("check", folder) == 1
    assert "--repair repairs it" in capsys.readouterr().out
    assert run_image("check", folder, "--repair") == 0
    assert run_image("check", folder) == 0
    (folder / LIVE).unlink(missing_ok=True)
    assert content_at(folder) == content


def test_one_in_use_is_refused(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, folder = shm_path / "base", shm_path / "overlay"
    base.write_bytes(os.urandom(1 << 20))
    backend = OverlayBackend(base, folder)
    backend.image_lock().lock()
    for command in (["check"], ["diff"], ["export"]):
        arguments = [*command, folder, *([shm_path / "out.raw"] if command == ["export"] else [])]
        assert run_image(*arguments) == 1
        assert "is in use by a running engine" in capsys.readouterr().err
    assert run_image("info", folder) == 0
    backend.close()


def test_a_base_that_was_written_to_is_told(overlay: KnownOverlay) -> None:
    overlay.base.write_bytes(overlay.base.read_bytes())
    (finding,) = check_overlay(str(overlay.folder), repair=False)
    assert f"is not as it was when the overlay {overlay.folder} was made on it" in finding.what
