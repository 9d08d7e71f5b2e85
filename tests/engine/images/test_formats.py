"""Which format a file is in: nothing but a raw image is ever taken for one in silence."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.engine.images.format import QEMU_FORMATS, UNREADABLE, find_container, is_disk
from ringblk.engine.images.probe import read_ends
from tests.rigs.image_command import run_image

COMMAND = [sys.executable, "-m", "ringblk", "image"]
needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
MADE_BY_QEMU = ["qcow2", "qcow", "qed", "vmdk", "vhdx", "vhd", "vdi", "parallels"]
SIZE_BYTES = 4 << 20


def disk(size_bytes: int = SIZE_BYTES) -> bytes:
    """A raw image with a partition table, data that don't compress and data that do, and holes."""
    content = bytearray(size_bytes)
    for start, size in ((512, 70_000), (1 << 20, 200_000), (3 << 20, 300_000)):
        content[start : start + size] = random.Random(start).randbytes(size)
    for start in (600_000, 2_500_000):
        content[start : start + 80_000] = b"some text " * 8000
    content[510:512] = b"\x55\xaa"
    return bytes(content)


def convert(raw: Path, target: Path, name: str, *options: str) -> None:
    driver = {"vhd": "vpc"}.get(name, name)
    command = ["qemu-img", "convert", "-f", "raw", "-O", driver, *options, str(raw), str(target)]
    subprocess.run(command, check=True)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "source.raw"
    path.write_bytes(disk())
    return path


def container_of(path: Path) -> str | None:
    with path.open("rb") as file:
        return find_container(*read_ends(file.fileno(), path.stat().st_size, 1))


@needs_qemu
@pytest.mark.parametrize("name", MADE_BY_QEMU)
def test_what_qemu_knows_is_imported_through_it(tmp_path: Path, raw: Path, name: str) -> None:
    packed, back = tmp_path / "packed", tmp_path / "back.raw"
    convert(raw, packed, name)
    assert container_of(packed) == name
    assert run_image("import", "--verify", "--quiet", packed, back) == 0
    content = back.read_bytes()
    assert content.startswith(disk())
    assert not content[SIZE_BYTES:].strip(b"\0")  # a VHD is as large as its cylinders


@needs_qemu
def test_a_fixed_vhd_is_known_by_its_end(tmp_path: Path, raw: Path) -> None:
    packed, back = tmp_path / "packed.img", tmp_path / "back.raw"
    convert(raw, packed, "vhd", "-o", "subformat=fixed,force_size=on")
    assert container_of(packed) == "vhd"
    assert run_image("import", "--quiet", packed, back) == 0
    assert back.read_bytes() == disk()
    damaged = bytearray(packed.read_bytes())
    damaged[-100] ^= 1
    packed.write_bytes(damaged)
    assert container_of(packed) is None


def archives() -> dict[str, bytes]:
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("disk.raw", b"content")
    with tarfile.open(fileobj=tarred, mode="w") as archive_of_tar:
        archive_of_tar.addfile(tarfile.TarInfo("disk.vmdk"))
    return {
        "zip": zipped.getvalue(),
        "tar": tarred.getvalue(),
        "LUKS": b"LUKS\xba\xbe\0\2" + bytes(1000),
        "lz4": b"\x04\x22\x4d\x18" + bytes(100),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
        "lzma": lzma.compress(b"content" * 1000, format=lzma.FORMAT_ALONE),
    }


@pytest.mark.parametrize("name", sorted(archives()))
@pytest.mark.parametrize("file_name", ["packed", "packed.img"])
def test_what_is_known_by_sight_only_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, file_name: str
) -> None:
    packed, back = tmp_path / file_name, tmp_path / "back.raw"
    packed.write_bytes(archives()[name])
    assert run_image("import", packed, back) == 1
    said = capsys.readouterr().err
    assert f"{name} file" in said
    assert UNREADABLE[name] in said
    assert len(said.splitlines()) == 1
    assert not back.exists()
    assert run_image("info", "--json", packed) == 0
    assert json.loads(capsys.readouterr().out)["format"] == name
    assert run_image("import", "--quiet", "--format", "raw", packed, back) == 0
    assert back.read_bytes().startswith(packed.read_bytes())


@pytest.mark.parametrize("by", ["file", "pipe"])
def test_what_is_not_recognised_is_asked_for(tmp_path: Path, by: str) -> None:
    unknown, back = tmp_path / "unknown", tmp_path / "back.raw"
    content = b"neither this nor that " * 1000
    unknown.write_bytes(content)
    source = str(unknown) if by == "file" else "-"
    piped = content if by == "pipe" else None
    refused = subprocess.run(
        [*COMMAND, "import", source, back], input=piped, capture_output=True, check=False
    )
    assert refused.returncode == 1
    assert b"--format raw takes it as it is" in refused.stderr
    assert not back.exists()
    command: list[str | Path] = [*COMMAND, "import", "--format", "raw", source, back]
    subprocess.run(command, input=piped, capture_output=True, check=True)
    assert back.read_bytes().startswith(content)


def test_what_a_raw_image_begins_with(tmp_path: Path) -> None:
    assert is_disk(bytes(69632))
    assert is_disk(bytes(512))
    assert is_disk(disk()[:69632])
    assert not is_disk(b"x" * 69632)
    for program, label in (
        ("mkfs.ext4", "ext4"),
        ("mkfs.xfs", "xfs"),
        ("mkfs.btrfs", "btrfs"),
        ("mkswap", ""),
    ):
        if shutil.which(program) is None:
            continue
        path = tmp_path / f"{program}-image"
        with path.open("wb") as file:
            file.truncate(400 << 20)
        subprocess.run([program, "-q" if label else "-f", path], check=True, capture_output=True)
        with path.open("rb") as file:
            assert is_disk(file.read(69632)), program
        assert container_of(path) is None


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2"])
@pytest.mark.parametrize("by", ["file", "pipe"])
def test_a_container_in_a_stream_is_no_raw_image(tmp_path: Path, name: str, by: str) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "xz": lzma.compress,
        "bzip2": bz2.compress,
    }
    pack = packers[name]
    footer = bytearray(b"conectix" + bytes(504))
    footer[64:68] = (~sum(footer) & 0xFFFFFFFF).to_bytes(4, "big")
    contents = [(b"QFI\xfb\0\0\0\3" + bytes(5000), "qcow2"), (gzip.compress(b"x"), "gzip")]
    contents += [(archives()["tar"], "tar"), (disk() + bytes(footer), "vhd")]
    for content, holds in contents:
        packed, back = tmp_path / "packed.img.gz", tmp_path / "back.raw"
        packed.write_bytes(pack(content))
        source = str(packed) if by == "file" else "-"
        with packed.open("rb") as file:
            refused = subprocess.run(
                [*COMMAND, "import", source, back], stdin=file, capture_output=True, text=True, check=False
            )
        assert refused.returncode == 1
        assert f"{holds} file" in refused.stderr
        assert f"--format {name} takes it as it is" in refused.stderr
        assert not back.exists()
    assert run_image("import", "--quiet", "--format", name, packed, back) == 0
    assert back.read_bytes() == content


@pytest.mark.parametrize("packed", [b"", gzip.compress(b"", mtime=0), lzma.compress(b""), bz2.compress(b"")])
@pytest.mark.parametrize("options", [[], ["--format=raw"]])
def test_an_empty_source_is_no_image(tmp_path: Path, packed: bytes, options: list[str]) -> None:
    if packed and options:
        pytest.skip("is no empty raw image")
    (tmp_path / "packed.img").write_bytes(packed)
    for source in (str(tmp_path / "packed.img"), "-"):
        command: list[str | Path] = [*COMMAND, "import", *options, source, tmp_path / "back.raw"]
        done = subprocess.run(command, input=packed, capture_output=True, check=False)
        assert done.returncode == 1
        assert b"the source is empty" in done.stderr
    assert os.listdir(tmp_path) == ["packed.img"]


def test_an_export_wants_a_name_that_says_its_format(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("disk.ova", "disk", "disk.qcow3", "disk.zip"):
        assert run_image("export", raw, tmp_path / name) == 1
        assert "its name says no format: --format" in capsys.readouterr().err
    assert run_image("export", raw, tmp_path / "disk.qcow2.gz") == 1
    assert "only a raw image is compressed" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["source.raw"]
    assert run_image("export", "--quiet", "--format", "raw", raw, tmp_path / "disk") == 0


def test_an_export_of_a_container_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "disk.img", tmp_path / "out.raw"
    source.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(5112))
    assert run_image("export", source, target) == 1
    said = capsys.readouterr().err
    assert "this qcow2 file is no raw image: `ringblk image import` makes one of it" in said
    assert "--source-format raw" in said
    assert run_image("export", "--quiet", "--source-format", "raw", source, target) == 0
    assert target.read_bytes() == source.read_bytes()


TRUNCATED = [
    *((name, ()) for name in MADE_BY_QEMU),
    ("qcow2", ("-c",)),
    ("qcow2", ("-o", "extended_l2=on,cluster_size=128k")),
    ("qcow2", ("-o", "cluster_size=512")),
    ("vmdk", ("-o", "subformat=streamOptimized")),
    ("vhd", ("-o", "subformat=fixed,force_size=on")),
]


@needs_qemu
@pytest.mark.parametrize(("name", "options"), TRUNCATED)
def test_a_truncated_image_is_never_filled_up_with_zeroes(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str], name: str, options: tuple[str, ...]
) -> None:
    packed, back = tmp_path / "packed", tmp_path / "back.raw"
    convert(raw, packed, name, *options)
    assert run_image("import", "--quiet", "--format", name, packed, back) == 0
    whole, content = packed.read_bytes(), back.read_bytes()
    chance = random.Random(5)
    cuts = [len(whole) - 1, len(whole) - 512, len(whole) - 4096, len(whole) // 2]
    refused = 0
    for end_bytes in [*cuts, *(chance.randrange(1, len(whole)) for _ in range(3))]:
        packed.write_bytes(whole[:end_bytes])
        if run_image("import", "--force", "--quiet", "--format", name, packed, back) == 0:
            assert back.read_bytes() == content  # what was cut off held nothing
        else:
            refused += 1
            assert len(capsys.readouterr().err.splitlines()) == 1
    assert refused >= 3


@needs_qemu
def test_a_truncated_base_is_found_below_its_overlay(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
    convert(raw, base, "qcow2")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay], check=True
    )
    assert run_image("import", "--quiet", "--format", "qcow2", overlay, tmp_path / "back.raw") == 0
    os.truncate(base, base.stat().st_size // 2)
    assert run_image("import", "--force", "--format", "qcow2", overlay, tmp_path / "back.raw") == 1
    assert f"{base} is cut off" in capsys.readouterr().err


def test_every_format_of_qemu_has_a_driver() -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    said = subprocess.run(["qemu-img", "--help"], capture_output=True, text=True, check=False).stdout
    drivers = said.partition("Supported image formats:")[2].split()
    assert {name.replace("vhd", "vpc") if name == "vhd" else name for name in QEMU_FORMATS} <= set(drivers)
