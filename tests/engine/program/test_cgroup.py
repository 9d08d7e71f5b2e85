"""A drive's processes are in the control group that its settings name, and nobody else is.

Fault model: folders that are none, or take no processes; one that goes while the drive is served; processes
that are killed.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.control_group import control_group, members
from tests.rigs.engine_rig import MEMORY, Engine, eventually, run_program
from tests.rigs.many_drives import ManyDrives


@pytest.fixture
def group() -> Iterator[Path]:
    with control_group() as folder:
        yield folder


@pytest.fixture
def engine() -> Iterator[ManyDrives]:
    with ManyDrives({}) as engine:
        yield engine


def test_processes_are_in_it_whoever_they_come_after(engine: ManyDrives, group: Path) -> None:
    assert engine.put("vm1", cgroup=str(group), io_engine="psync")[1]["cgroup"] == str(group)
    assert engine.put("vm2")[0] == 201
    with engine.frontend("vm1") as disk:
        disk.write(0, b"a" * 512)
        assert len(members(group)) > 1
        assert members(group) == engine.processes("vm1")
        before = engine.snapshots()["vm1"].dispatcher_pid
        engine.kill_dispatcher("vm1")
        assert disk.read(0, 512) == b"a" * 512
        assert before not in members(group)
        assert members(group) == engine.processes("vm1")
    assert not members(group) & {engine.process.pid, *engine.processes("vm2")}
    before_get = engine.control.get("/drives/vm1")
    assert engine.control.ask("PUT", "/drives/vm1", before_get)[0] == 200
    status, answer = engine.put("vm1", io_engine="psync")
    assert (status, answer["field"]) == (409, "cgroup")
    assert engine.delete("vm1")[0] == 204
    assert members(group) == set()


def test_folders_that_take_no_processes(engine: ManyDrives, group: Path, tmp_path: Path) -> None:
    engine.put("vm2")
    before = engine.holdings()
    child = group / "child"
    child.mkdir()
    (child / "cgroup.type").write_text("threaded")
    invalid = group / "invalid"
    invalid.mkdir()
    (tmp_path / "cgroup.procs").write_text("")
    wrong = {
        "/nowhere": "No such file or directory",
        str(tmp_path): "no folder of cgroup v2",
        str(tmp_path.parent): "no folder of cgroup v2: it has no cgroup.procs",
        str(invalid): "takes no processes: its cgroup.type is domain invalid",
        "": "No such file or directory",
        "/a\0b": "no path has a NUL in it",
    }
    for path, text in wrong.items():
        status, answer = engine.put("vm1", cgroup=path)
        assert (status, answer["field"]) == (400, "cgroup"), answer
        assert text in answer["error"]
        assert "vm1" not in engine.control.get("/drives")["drives"]
    invalid.rmdir()
    child.rmdir()
    eventually(lambda: engine.holdings() == before, "nothing that is left")
    assert engine.put("vm1", cgroup=str(group))[0] == 201
    assert engine.delete("vm1")[0] == 204


def test_a_group_that_goes_takes_no_drive_along(engine: ManyDrives, group: Path) -> None:
    assert engine.put("vm1", cgroup=str(group), io_engine="sync")[0] == 201
    with engine.frontend("vm1") as disk:
        disk.write(0, b"a" * 512)
        (dispatcher,) = members(group)
        (group.parent / "cgroup.procs").write_text(str(dispatcher))
        group.rmdir()
        engine.kill_dispatcher("vm1")
        assert disk.read(0, 512) == b"a" * 512
    assert "runs outside of its control group" in engine.log()
    assert "has been removed" in engine.log()


def test_an_engine_for_one_drive(group: Path) -> None:
    with Engine(*MEMORY, f"--cgroup={group}") as engine:
        eventually(lambda: members(group), "its dispatcher")
        assert engine.process.pid not in members(group)
    done = run_program("--socket-path=/nowhere/s", *MEMORY, "--cgroup=/nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--cgroup /nowhere: No such file or directory" in done.stderr
