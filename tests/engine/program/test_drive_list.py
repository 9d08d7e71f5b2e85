"""An engine with a list of drives, as its file names them: all start, or none; each lives by itself."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.drives.record import records_of_process
from ringblk.shm.platform.process import HAS_ZYGOTE
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import SEGMENT_PREFIX
from ringblk.workers.backends.file_identity import subject_of
from tests.rigs.control_client import kill_and_reap
from tests.rigs.engine_rig import (
    DEADLINE_S,
    MEMORY_BYTES,
    Engine,
    eventually,
    own_lines,
    run_program,
)
from tests.rigs.many_drives import DISK_BYTES, ManyDrives
from tests.rigs.process_tree import has_ended

MEMORY = {"backend": "memory", "backend_arg": {"size_bytes": str(MEMORY_BYTES)}}


@pytest.fixture
def engine() -> Iterator[ManyDrives]:
    with ManyDrives({"vm1": {}, "vm2": {"workers": 2}, "ram": MEMORY}) as engine:
        yield engine


def test_each_drive_has_its_own_data_and_its_own_name(engine: ManyDrives) -> None:
    with engine.frontend("vm1") as first, engine.frontend("vm2") as second, engine.frontend("ram") as third:
        for disk, text in ((first, b"1"), (second, b"2"), (third, b"3")):
            disk.write(0, text * 4096)
        assert [disk.read(0, 4096)[:1] for disk in (first, second, third)] == [b"1", b"2", b"3"]
    snapshots = engine.snapshots()
    assert set(snapshots) == {"vm1", "vm2", "ram"}
    assert [snapshots[name].storage for name in ("vm1", "ram")] == [str(engine.image("vm1")), "memory"]
    assert all(f" INFO: {name}: " in engine.log() for name in snapshots)
    assert engine.image("vm2").read_bytes()[:1] == b"2"


def test_nothing_is_left_of_any(engine: ManyDrives) -> None:
    children = engine.children()
    assert engine.end() == 0
    assert engine.segments() == []
    assert engine.records() == []
    assert list(engine.folder.glob("*.sock")) == []
    eventually(lambda: all(map(has_ended, children)), "the children's end")


def test_a_child_has_nothing_of_another_drive(engine: ManyDrives) -> None:
    images = {name: subject_of(os.stat(engine.image(name))) for name in ("vm1", "vm2")}
    segments = {each.drive: each.name for each in engine.snapshots().values()}
    for name in ("vm1", "vm2", "ram"):
        others = {each for each in segments if each != name}
        for pid in engine.processes(name):
            open_files = [Path(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            links = " ".join(os.readlink(path) for path in open_files)
            subjects = {subject_of(path.stat()) for path in open_files}
            assert not any(segments[other] in links for other in others)
            assert not any(images[other] in subjects for other in others & set(images))
            assert segments[name] in links
            sockets = [link for link in links.split() if link.startswith("socket:")]
            is_dispatcher = pid == engine.snapshots()[name].dispatcher_pid
            assert len(sockets) == 1 + (is_dispatcher and HAS_ZYGOTE), (
                "its channel, and where the next supervisor comes"
            )


def test_a_dispatcher_that_dies_is_its_drives_own_trouble(engine: ManyDrives) -> None:
    with engine.frontend("vm1") as first, engine.frontend("vm2") as second:
        before = engine.processes("vm2")
        first.write(0, b"x" * 512)
        kill_and_reap(engine.snapshots()["vm1"].dispatcher_pid)
        second.write(0, b"y" * 512)
        assert first.read(0, 512) == b"x" * 512
        assert second.read(0, 512) == b"y" * 512
        assert engine.processes("vm2") == before
    assert "vm1: the dispatcher died" in engine.log()
    assert "vm2: the dispatcher died" not in engine.log()


def test_a_drive_whose_processes_die_again_and_again_fails_alone() -> None:
    """A drive fails: it alone."""
    with ManyDrives({"bad": {"io_engine": "sync"}, "good": {}}) as engine, engine.frontend("good") as good:
        good.write(0, b"g" * 4096)
        while "bad: the drive has failed" not in engine.log():
            engine.kill_dispatcher("bad")
        assert good.read(0, 4096) == b"g" * 4096
        assert engine.process.poll() is None
        assert not engine.socket_path("bad").exists()
        assert (len(engine.segments()), len(engine.records())) == (2, 2)
        assert engine.delete("bad")[0] == 204
        assert (len(engine.segments()), len(engine.records())) == (1, 1)
        assert engine.end() == 0


def test_an_engine_of_which_no_drive_is_left_and_none_can_come_ends(tmp_path: Path) -> None:
    with ManyDrives({"vm1": {"workers": 1}}, has_control=False) as engine:
        while engine.process.poll() is None and "has failed" not in engine.log():
            engine.kill_dispatcher("vm1")
        assert engine.process.wait(DEADLINE_S) == 1
        assert "no drive is left" in engine.log()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"blk_file": "/nowhere/disk.img"}, "drive vm2: blk_file /nowhere/disk.img: can't open it"),
        ({"socket_path": "/nowhere/s"}, "drive vm2: socket_path /nowhere/s: No such file or directory"),
        ({"user": "nobody-of-this-name"}, "drive vm2: user nobody-of-this-name: there is no user"),
        ({"backend": "no_such_module:Disk", "blk_file": None}, "drive vm2: .*no_such_module"),
    ],
)
def test_a_drive_that_cannot_be_opened_keeps_all_from_starting(
    tmp_path: Path, settings: dict[str, object], named: str
) -> None:
    drives = {
        name: {"socket_path": str(tmp_path / name), "blk_file": str(tmp_path / f"{name}.img")}
        for name in ("vm1", "vm2", "vm3")
    }
    for name in drives:
        (tmp_path / f"{name}.img").write_bytes(bytes(DISK_BYTES))
    config = tmp_path / "engine.json"
    config.write_text(json.dumps({"drives": {**drives, "vm2": {**drives["vm2"], **settings}}}))
    before = set(shared_names(SEGMENT_PREFIX))
    done = run_program(f"--config={config}")
    assert done.returncode == 1
    lines = own_lines(done).splitlines()
    assert named.partition(".*")[0] in lines[-1]
    assert named.rpartition(".*")[2] in lines[-1]
    assert not [path for path in tmp_path.iterdir() if path.is_socket()]
    assert not [name for name in set(shared_names(SEGMENT_PREFIX)) - before if "drive" in name]


def test_one_image_is_written_by_one_drive(tmp_path: Path) -> None:
    image, link = tmp_path / "disk.img", tmp_path / "link.img"
    image.write_bytes(bytes(DISK_BYTES))
    os.link(image, link)
    drives = {
        "vm1": {"socket_path": str(tmp_path / "s1"), "blk_file": str(image)},
        "vm2": {"socket_path": str(tmp_path / "s2"), "blk_file": str(link), "read_only": True},
    }
    config = tmp_path / "engine.json"
    config.write_text(json.dumps({"drives": drives}))
    done = run_program(f"--config={config}")
    assert done.returncode == 2
    assert (
        f"drive vm2: blk_file {link} is drive vm1's, too: only drives that are read_only may" in done.stderr
    )


def test_drives_that_only_read_share_an_image() -> None:
    with ManyDrives({}, has_control=True) as first:
        image = first.folder / "shared.img"
        image.write_bytes(b"s" * DISK_BYTES)
        settings = {"blk_file": str(image), "read_only": True}
        with (
            ManyDrives({"vm1": settings, "vm2": settings}, has_control=False, after=first) as engine,
            engine.frontend("vm1") as one,
            engine.frontend("vm2") as other,
        ):
            assert one.read(0, 512) == other.read(0, 512) == b"s" * 512


def test_takeover_of_all_drives() -> None:
    with ManyDrives({"vm1": {}, "vm2": {}}) as old, old.frontend("vm1") as disk:
        disk.write(0, b"t" * 4096)
        with ManyDrives({"vm1": {}, "vm2": {}, "vm3": {}}, "--takeover", after=old) as new:
            assert old.process.wait(DEADLINE_S) == 0
            disk.reconnect()
            assert disk.read(0, 4096) == b"t" * 4096
            assert set(new.snapshots()) == {"vm1", "vm2", "vm3"}
            assert "taking over from the engine" in new.log()


def test_no_takeover_that_would_end_other_drives() -> None:
    with ManyDrives({"vm1": {}, "vm2": {}}) as engine:
        done = run_program(
            f"--socket-path={engine.socket_path('vm1')}", f"--blk-file={engine.image('vm1')}", "--takeover"
        )
        assert done.returncode == 1
        assert "has other drives besides, which would end with it: vm2" in done.stderr
        assert engine.process.poll() is None


def test_a_takeover_of_all_leaves_no_drive_behind(tmp_path: Path) -> None:
    with ManyDrives({"vm1": {}, "vm2": {}}) as engine:
        config = tmp_path / "engine.json"
        config.write_text(
            json.dumps(
                {"control": str(engine.control.socket_path), "drives": {"vm1": engine.settings("vm1")}}
            )
        )
        done = run_program(f"--config={config}", "--takeover")
        assert done.returncode == 1
        assert "has other drives besides, which would end with it: vm2" in done.stderr
        assert engine.process.poll() is None
        assert set(engine.control.get("/drives")["drives"]) == {"vm1", "vm2"}


def test_what_is_left_of_a_killed_engine_is_found_by_drive() -> None:
    with ManyDrives({"vm1": {}, "vm2": {}}) as killed:
        killed.kill()
        assert len(records_of_process(killed.process.pid)) == 2
        with ManyDrives({"vm1": {}, "vm2": {}}, after=killed) as engine, engine.frontend("vm2") as disk:
            disk.write(0, b"k" * 512)
            eventually(lambda: killed.segments() == [], "the removal of what was left")


def test_an_engine_with_one_drive_has_no_name_in_its_lines() -> None:
    with Engine("--backend=null", "--backend-arg=size_bytes=512") as engine:
        assert f"ringblk[{engine.process.pid}] INFO: null, 512 B" in engine.log()
