"""`ringblk drive` on copy-on-write drives: a snapshot's whole life as a person types it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.drive_command import done, refused
from tests.rigs.many_drives import ManyDrives

SIZE_BYTES = 4 << 20  # a merge stops between two pieces of 1 MiB
BASE = bytes(range(1, 129)) * (SIZE_BYTES // 128)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(BASE)
    return path


@pytest.fixture
def engine(base: Path) -> Iterator[ManyDrives]:
    drives = {name: {"base": str(base), "overlay": str(base.with_name(name))} for name in ("vm1", "vm2")}
    with ManyDrives(drives) as engine:
        yield engine


def test_snapshots_clones_and_resets(engine: ManyDrives, base: Path) -> None:
    assert done(engine, "snapshots", "vm1") == "this drive has no snapshots\n"
    with engine.frontend("vm1") as disk:
        disk.write(4096, b"a" * 4096)
        assert done(engine, "snapshot", "vm1", "one") == "vm1: snapshot one taken\n"
        disk.write(12288, b"b" * 8192)
        assert done(engine, "changed", "vm1", "--since=one") == "12288 8192\n"
        answer = json.loads(done(engine, "changed", "vm1", "--since=one", "--json"))
        assert answer["extents"] == [{"offset": 12288, "length": 8192}]
        assert "force" in refused(engine, "reset", "vm1", "one")
        assert done(engine, "reset", "vm1", "one", "--force") == "vm1: reset to one (connected)\n"
        assert disk.read(8192, 8192) == BASE[8192:16384]
        assert done(engine, "changed", "vm1", "--since=one") == ""
    options = ("--snapshot=one", "--overlay=made/vm3", "--socket-path=vm3.sock", "--workers=1")
    (base.parent / "made").mkdir()
    said = done(engine, "clone", "vm1", "vm3", *options, folder=base.parent)
    assert said == "vm3: a clone of vm1 at one (waiting)\n"
    settings = engine.control.get("/drives/vm3")
    assert settings["overlay"] == str(base.parent / "made" / "vm3")
    assert (settings["base"], settings["base_snapshot"]) == (str(base.with_name("vm1")), "one")
    assert "vm3 is there already" in refused(engine, "clone", "vm1", "vm3", *options)
    clone = ("clone", "vm1", "vm4", "--snapshot=two", "--overlay=vm4", "--socket-path=vm4.sock")
    assert "no snapshot two" in refused(engine, *clone)
    assert "base of another drive" in refused(engine, "delete-snapshot", "vm1", "one")
    done(engine, "remove", "vm3")
    assert done(engine, "delete-snapshot", "vm1", "one") == "vm1: snapshot one deleted\n"
    assert "no snapshot one" in refused(engine, "delete-snapshot", "vm1", "one")


def test_several_drives_at_one_instant(engine: ManyDrives) -> None:
    assert done(engine, "snapshot", "vm1", "both", "--also=vm2") == "vm1, vm2: snapshot both taken\n"
    assert "both" in done(engine, "snapshots", "vm2")
    assert "there is no drive vm9" in refused(engine, "snapshot", "vm1", "three", "--also=vm9")
    assert "three" not in done(engine, "snapshots", "vm1")


def test_a_job_is_seen_slowed_down_stopped_and_waited_for(engine: ManyDrives) -> None:
    assert done(engine, "job", "vm1") == "vm1: nothing is merged\n"
    done(engine, "job", "vm1", "--bps=64K")
    assert done(engine, "flatten", "vm1") == "vm1: copies what its base has (waiting)\n"
    assert "flattens: " in done(engine, "job", "vm1")
    assert "64.0 KiB/s at most" in done(engine, "job", "vm1")
    assert "flattens: " in done(engine, "show", "vm1")
    assert json.loads(done(engine, "job", "vm1", "--json"))["bps"] == 65536
    assert done(engine, "job", "vm1", "--cancel") == "vm1: nothing is merged\n"
    assert "--bps" in refused(engine, "job", "vm1", "--bps=quick", status=2)
    done(engine, "job", "vm1", "--bps=none")
    done(engine, "flatten", "vm1")
    assert done(engine, "job", "vm1", "--wait") == "vm1: nothing is merged\n"
    assert "lies on no base" in refused(engine, "flatten", "vm1")


def test_other_drives_are_told_why_not(engine: ManyDrives) -> None:
    engine.put("plain")
    for words in (["snapshots"], ["commit"], ["flatten"], ["reset"]):
        assert "has no overlay" in refused(engine, words[0], "plain")
    said = refused(engine, "clone", "plain", "vm5", "--snapshot=one", "--overlay=x", "--socket-path=y")
    assert "has no overlay" in said
