"""Snapshots of drives that run go to another host as deltas; what `ringblk image` changes, engines serve."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.image_command import run_image
from tests.rigs.many_drives import ManyDrives

SIZE_BYTES = 1 << 20
BASE = bytes(range(1, 129)) * (SIZE_BYTES // 128)


def block(letter: str) -> bytes:
    return letter.encode() * 4096


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "base").write_bytes(BASE)
    return tmp_path


@pytest.fixture
def drives(home: Path) -> Iterator[ManyDrives]:
    with ManyDrives({"vm1": {"base": str(home / "base"), "overlay": str(home / "vm1")}}) as engine:
        yield engine


def snapshot(drives: ManyDrives, name: str) -> None:
    status, _ = drives.control.ask("POST", "/drives/vm1/snapshots", {"name": name})
    assert status == 201


def test_incremental_backups_of_a_drive_that_runs(
    drives: ManyDrives, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, there = home / "vm1", home / "there"
    there.mkdir()
    shutil.copy(home / "base", there / "base")
    assert run_image("create", there / "vm1", f"--base={there / 'base'}") == 0
    with drives.frontend("vm1") as disk:
        contents = {}
        before = "base"
        for number, name in enumerate(("monday", "tuesday", "wednesday")):
            disk.write(number * 8192, block(name[0]))
            disk.write_zeroes(SIZE_BYTES - (number + 1) * 16384, 16384)
            disk.write(65536 + 512, name.encode().ljust(512))
            snapshot(drives, name)
            contents[name] = disk.read(0, SIZE_BYTES)
            disk.write(40960, block("x"))  # not the snapshot's
            delta = home / f"{name}.delta"
            since = (f"--since={before}", f"--snapshot={name}", "--quiet")
            assert run_image("export", folder, delta, *since) == 0
            assert run_image("import", delta, there / "vm1") == 0
            assert run_image("export", there / "vm1", home / f"{name}.raw", "--quiet") == 0
            assert (home / f"{name}.raw").read_bytes() == contents[name]
            before = name
        capsys.readouterr()
        assert run_image("diff", folder, "--since=monday", "--snapshot=tuesday", "--json") == 0
        extents = json.loads(capsys.readouterr().out)
        assert extents == [
            {"offset": 8192, "length": 4096},
            {"offset": 40960, "length": 4096},
            {"offset": 65536, "length": 4096},
            {"offset": SIZE_BYTES - 32768, "length": 16384},
        ]
        for command in (["export", home / "now.raw"], ["check"], ["flatten"], ["commit"]):
            assert run_image(command[0], folder, *command[1:]) == 1
            assert "in use" in capsys.readouterr().err
        status, _ = drives.put("copy", base=str(there / "base"), overlay=str(there / "vm1"))
        assert status == 201
        with drives.frontend("copy") as copy:
            assert copy.read(0, SIZE_BYTES) == contents["wednesday"]
            copy.write(0, block("y"))
            assert copy.read(0, 4096) == block("y")


def test_what_was_changed_offline_is_served(home: Path) -> None:
    settings = {"base": str(home / "base"), "overlay": str(home / "vm1")}
    with ManyDrives({"vm1": settings}) as drives, drives.frontend("vm1") as disk:
        disk.write(4096, block("a"))
        snapshot(drives, "one")
        disk.write(8192 + 512, block("b"))
        content = disk.read(0, SIZE_BYTES)
    assert run_image("check", home / "vm1") == 0
    (home / "other").write_bytes(BASE[: SIZE_BYTES // 2] + bytes(SIZE_BYTES // 2))
    assert run_image("rebase", home / "vm1", f"--base={home / 'other'}", "--quiet") == 0
    assert run_image("check", home / "vm1") == 0
    settings["base"] = str(home / "other")
    with ManyDrives({"vm1": settings}) as drives, drives.frontend("vm1") as disk:
        assert disk.read(0, SIZE_BYTES) == content
        disk.write(0, block("c"))
        content = block("c") + content[4096:]
    assert run_image("flatten", home / "vm1", "--quiet") == 0
    assert run_image("check", home / "vm1") == 0
    with ManyDrives({"vm1": {"overlay": str(home / "vm1")}}) as drives, drives.frontend("vm1") as disk:
        assert disk.read(0, SIZE_BYTES) == content
        status, _ = drives.control.ask("POST", "/drives/vm1/reset", {"snapshot": "one", "force": True})
        assert status == 200
        assert disk.read(0, SIZE_BYTES) == BASE[:4096] + block("a") + BASE[8192:]
