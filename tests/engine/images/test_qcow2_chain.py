"""A whole chain of snapshots goes out to qcow2 and comes in again: each reads as it was."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ringblk.engine.images.overlay import OverlayImage
from tests.rigs.image_command import run_image
from tests.rigs.overlay_chain import KnownOverlay, Write, content_at

SIZE_BYTES = 200 * 4096 + 512
BASE_BYTES = 150 * 4096 + 1024

pytestmark = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("qemu-img", "qemu-nbd")), reason="no qemu-utils"
)


@pytest.fixture
def overlay(shm_path: Path) -> KnownOverlay:
    made = KnownOverlay(shm_path / "one", BASE_BYTES, SIZE_BYTES)
    made.snapshot("monday", [Write(1, 3), Write(40, 20), Write(100, 5, True)])
    made.snapshot("to&from", [Write(2, 1, True), Write(60, 1), Write(149, 4)], SIZE_BYTES + 40 * 4096)
    made.snapshot("wednesday", [Write(100, 2), Write(239, 2)])
    return made


def raw_of(image: Path) -> bytes:
    """What QEMU reads of an image."""
    raw = image.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw], check=True)
    return raw.read_bytes()


def test_out_and_in_again(overlay: KnownOverlay, shm_path: Path) -> None:
    folder = shm_path / "qcow2"
    assert run_image("export", overlay.folder, folder, "--chain") == 0
    names = ["0-base", "1-monday", "2-to_from", "3-wednesday", "4-top"]
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.qcow2" for name in names]
    for image, name in zip(names[1:4], ["monday", "to&from", "wednesday"], strict=True):
        assert raw_of(folder / f"{image}.qcow2") == overlay.contents[name]
        subprocess.run(["qemu-img", "check", "-q", folder / f"{image}.qcow2"], check=True)
    shutil.move(folder, shm_path / "moved")  # they name each other without a folder
    top = shm_path / "moved" / "4-top.qcow2"
    again = shm_path / "again"
    assert run_image("import", top, again, "--chain", f"--base={overlay.base}") == 0
    for image, name in zip(names[1:4], ["monday", "to&from", "wednesday"], strict=True):
        assert content_at(again, image) == overlay.contents[name]
    assert content_at(again) == overlay.content
    with OverlayImage(str(again)) as imported, OverlayImage(str(overlay.folder)) as original:
        owned = [len(each.states.own) for each in imported.layers[2:]]
        assert owned == [len(each.states.own) for each in original.layers[1:]]


def test_a_chain_that_qemu_made(shm_path: Path) -> None:
    """Clusters of 64 KiB and of 512 bytes, a raw image at the bottom."""
    base = shm_path / "base.raw"
    base.write_bytes(bytes(range(256)) * 4096)
    subprocess.run(["truncate", "-s", "1M", base], check=True)
    below, format_below = base, "raw"
    for number, cluster_bytes in enumerate((65536, 512)):
        image = shm_path / f"layer{number}.qcow2"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster_bytes}"]
        subprocess.run([*command, "-b", below, "-F", format_below, image], check=True)
        writes = [
            f"write -P {number + 1} {number * 65536 + 512} 1536",
            f"write -z {131072 + number * 4096} 8192",
        ]
        commands = [word for write in writes for word in ("-c", write)]
        subprocess.run(["qemu-io", "-f", "qcow2", *commands, image], check=True, stdout=subprocess.DEVNULL)
        below, format_below = image, "qcow2"
    overlay = shm_path / "overlay"
    assert run_image("import", below, overlay, "--chain") == 0
    assert content_at(overlay, "layer0") == raw_of(shm_path / "layer0.qcow2")
    assert content_at(overlay) == content_at(overlay, "layer1") == raw_of(below)


def test_what_is_refused_leaves_nothing(
    overlay: KnownOverlay, shm_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shm_path / "qcow2"
    assert run_image("export", overlay.folder, folder, "--chain", "--quiet") == 0
    before = sorted(path.name for path in shm_path.iterdir())
    top = folder / "4-top.qcow2"
    assert run_image("export", overlay.folder, folder, "--chain") == 1
    assert "exists already" in capsys.readouterr().err
    assert run_image("import", top, shm_path / "again", "--chain") == 1
    assert "import it into a raw one, and give --base" in capsys.readouterr().err
    with overlay.base.open("r+b") as file:
        file.seek(5000)
        file.write(b"another")
    assert run_image("import", top, shm_path / "again", "--chain", f"--base={overlay.base}") == 1
    assert "has not the content of" in capsys.readouterr().err
    (folder / "2-to_from.qcow2").unlink()
    assert run_image("import", top, shm_path / "again", "--chain", f"--base={overlay.base}") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in shm_path.iterdir()) == before


def test_what_a_killed_run_left_is_removed(overlay: KnownOverlay, shm_path: Path) -> None:
    left = shm_path / ".qcow2.partial-0123abcd"
    (left / "qcow2").mkdir(parents=True)
    (left / "qcow2" / "0-base.qcow2").write_bytes(b"half of it")
    assert run_image("export", overlay.folder, shm_path / "qcow2", "--chain") == 0
    assert not left.exists()
