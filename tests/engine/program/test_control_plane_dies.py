"""The supervisor dies: the control plane of an engine with a list of drives is started again.

Fault model: SIGKILL of the supervisor at any moment, again and again, of its successors, and of the zygote
with it. The zygote alone is in tests/engine/supervisor/test_zygote_process.py, the points at which a
supervisor can die in tests/crash/test_walk_control_plane.py.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ringblk.engine.base.restart_limit import MAX_DEATHS
from tests.rigs.control_client import kill_and_reap
from tests.rigs.engine_process import wait_gone
from tests.rigs.engine_rig import DEADLINE_S, PROGRAM, environment, eventually
from tests.rigs.many_drives import DISK_BYTES, STARTED, ManyDrives
from tests.rigs.process_tree import (
    children_of,
    kill_all_with,
    process_name,
    processes_with,
    remembers_dead,
    wait_none_with,
    zygotes_of,
)

BLOCK = b"c" * 4096
ALL_BUT_OF_LIBC = (1 << 31) - 1
"""Signals: 32 and 33 are the C library's own, which it sets to be ignored in what it spawns."""


@pytest.fixture
def engine() -> Iterator[ManyDrives]:
    with ManyDrives({"vm1": {}, "vm2": {}}) as engine:
        yield engine


def wait_next(engine: ManyDrives, former: int) -> int:
    """The next supervisor that the zygote has started, as soon as it is there."""
    (zygote,) = zygotes_of(former)
    name = process_name(former)
    os.kill(former, signal.SIGKILL)
    found: list[int] = []

    def is_there() -> bool:
        found[:] = [pid for pid in set(children_of(zygote)) - {former} if process_name(pid) == name]
        return bool(found)

    eventually(is_there, "the next supervisor")
    return found[0]


def test_the_supervisor_dies_and_another_goes_on(engine: ManyDrives) -> None:
    """Fault: SIGKILL of the supervisor. What serves a front end goes on; all else begins anew."""
    assert engine.put("vm3", iops=7)[0] == 201
    assert engine.delete("vm2")[0] == 204
    engine.control.change("/drives/vm1", cache="unsafe")
    before = engine.control.get("/drives")
    with engine.frontend("vm1") as disk:
        disk.write(4096, BLOCK)
        engine.config_path.write_text("this is no configuration any more")
        former, serving = engine.pid, engine.processes("vm1")
        resting = engine.children() - serving
        (zygote,) = zygotes_of(former)
        engine.kill_control_plane()
        wait_gone([*resting, former])
        assert serving <= engine.children()
        after = engine.control.get("/drives")
        for answer in (before, after):
            for drive in answer["drives"].values():
                del drive["state"]
        assert after == before
        assert disk.read(4096, 4096) == BLOCK
    assert zygotes_of(engine.pid) == [zygote]
    assert engine.delete("vm3")[0] == 204
    assert engine.end() == -signal.SIGKILL
    assert engine.log().count(STARTED) == 1
    assert "Traceback" not in engine.log()
    assert (engine.segments(), engine.records(), list(engine.folder.glob("*.sock"))) == ([], [], [])


def test_processes_of_all_kinds_go_on_without_their_supervisor() -> None:
    """Fault: SIGKILL of the supervisor while loads run and while none does; no front end hears of it."""
    drives = {
        f"{state}-{io_engine}": {"io_engine": io_engine}
        for io_engine in ("psync", "io_uring", "io_uring_inline", "sync")
        for state in ("busy", "idle")
    }
    with ManyDrives(drives) as engine:
        disks = {name: engine.frontend(name, queue_size=64) for name in drives}
        waiting: dict[str, list[int]] = {}
        for name, disk in disks.items():
            disk.write(0, BLOCK)
            if name.startswith("busy"):
                waiting[name] = [
                    disk.submit_write(number % 8 * 4096, disk.allocate(4096, 4096)) for number in range(30)
                ]
        dispatchers = {name: engine.snapshots()[name].dispatcher_pid for name in drives}
        engine.kill_control_plane()
        for name, tokens in waiting.items():
            while tokens:
                for completion in disks[name].poll(1, DEADLINE_S):
                    assert completion.status == 0, name
                    tokens.remove(completion.token)
        for name, disk in disks.items():
            assert disk.read(0, 4096) == (bytes(4096) if name in waiting else BLOCK), name
        assert {name: engine.snapshots()[name].dispatcher_pid for name in drives} == dispatchers
        for disk in disks.values():
            disk.close()
        engine.end()
        assert "Traceback" not in engine.log()


def test_processes_of_adopted_drives_are_replaced() -> None:
    """Fault: SIGKILL of the supervisor, then of all processes of the drives that the next one has adopted."""
    names = ("psync", "io_uring")
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(ManyDrives({name: {"io_engine": name} for name in names}))
        disks = {name: stack.enter_context(engine.frontend(name)) for name in names}
        for disk in disks.values():
            disk.write(0, BLOCK)
        engine.kill_control_plane()
        for name, disk in disks.items():
            for pid in engine.processes(name):
                kill_and_reap(pid)
            assert disk.read(0, 4096) == BLOCK
            disk.write(4096, BLOCK)
        eventually(lambda: not remembers_dead(engine.pid), "the clearing away")  # nobody else could fence
        engine.kill_control_plane()
        for name, disk in disks.items():
            assert disk.read(4096, 4096) == BLOCK
            engine.control.change(f"/drives/{name}", size_bytes=DISK_BYTES * 2)
            assert engine.image(name).stat().st_size == DISK_BYTES * 2
            assert f": {name}: " in "".join(line for line in engine.log().splitlines() if " died: " in line)
        died = [line for line in engine.log().splitlines() if " died: " in line]
        assert all(any(f": {name}: " in line for name in names) for line in died)
        assert "Traceback" not in engine.log()


def test_processes_that_serve_nobody_end_without_their_supervisor() -> None:
    """Fault: SIGKILL of the supervisor when the front ends have just gone: another begins the drives anew."""
    names = ("psync", "io_uring", "io_uring_inline", "sync")
    with ManyDrives({name: {"io_engine": name} for name in names}) as engine:
        for name in names:
            with engine.frontend(name) as disk:
                disk.write(0, BLOCK)
        children = engine.children()
        eventually(lambda: not any(each.is_connected for each in engine.snapshots().values()), "their ends")
        engine.kill_control_plane()
        wait_gone(list(children))
        for name in names:
            with engine.frontend(name) as disk:
                assert disk.read(0, 4096) == BLOCK
        engine.end()
        assert "Traceback" not in engine.log()


def test_it_dies_again_and_again_and_the_engine_lives(engine: ManyDrives) -> None:
    for _ in range(3):
        engine.kill_control_plane()
        assert engine.states() == {"vm1": "running", "vm2": "running"}
    assert len(zygotes_of(engine.pid)) == 1
    engine.end()


def test_one_that_dies_while_it_begins_has_a_successor_too(engine: ManyDrives) -> None:
    """Fault: the second supervisor is killed as soon as it is there, the third a little later."""
    (zygote,) = zygotes_of(engine.pid)
    second = wait_next(engine, engine.pid)
    kill_and_reap(second)
    eventually(lambda: engine.log().count(STARTED) == 2, "the third")
    engine.wait_restarted(2)
    assert zygotes_of(engine.pid) == [zygote]
    assert engine.states() == {"vm1": "running", "vm2": "running"}
    engine.end()


def test_one_that_dies_too_often_ends_the_engine(engine: ManyDrives) -> None:
    (zygote,) = zygotes_of(engine.pid)
    pid = engine.pid
    for number in range(MAX_DEATHS):
        pid = wait_next(engine, pid)
        assert engine.log().count(STARTED) == number + 1
    os.kill(pid, signal.SIGKILL)
    wait_none_with(engine.mark)
    assert "the engine ends: its control plane dies again and again" in engine.log()
    wait_gone([zygote])


def test_a_second_supervisor_is_told_to_end(engine: ManyDrives) -> None:
    engine.kill_control_plane()
    pids = [engine.pid, *zygotes_of(engine.pid), *engine.children()]
    os.kill(engine.pid, signal.SIGINT)
    wait_gone(pids)
    assert not processes_with(engine.mark)
    assert engine.log().count(STARTED) == 1
    assert list(engine.folder.glob("*.sock")) == []


def test_a_drive_that_cannot_be_begun_again_fails_alone(engine: ManyDrives) -> None:
    """Fault: the image of one drive has gone when the supervisor dies."""
    engine.image("vm1").unlink()
    engine.kill_control_plane()
    assert engine.states() == {"vm1": "failed", "vm2": "running"}
    with engine.frontend("vm2") as disk:
        disk.write(0, BLOCK)
    engine.end()


def test_it_is_started_as_the_first_was(tmp_path: Path) -> None:
    """Its working directory, standard streams, ignored signals and name."""

    def ignore_hangups() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.chdir(tmp_path)

    def surroundings(pid: int) -> list[str]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        masks = [line.split() for line in lines if line.startswith(("SigIgn", "SigBlk", "SigCgt"))]
        signals = [f"{name} {int(mask, 16) & ALL_BUT_OF_LIBC:x}" for name, mask in masks]
        links = [os.readlink(f"/proc/{pid}/{name}") for name in ("cwd", "fd/0", "fd/1", "fd/2", "exe")]
        return [process_name(pid), *links, *signals]

    with ManyDrives({"vm1": {}}, prepare=ignore_hangups) as engine:
        before = surroundings(engine.pid)
        engine.kill_control_plane()
        assert surroundings(engine.pid) == before
        os.kill(engine.pid, signal.SIGHUP)
        assert engine.states() == {"vm1": "running"}
        names = {process_name(pid) for pid in engine.children()}
        assert all(name.startswith("rb-") for name in names)
        engine.end()


def test_statistics_find_the_next_one(engine: ManyDrives) -> None:
    engine.kill_control_plane()
    assert set(engine.snapshots()) == {"vm1", "vm2"}
    ringblk = str(Path(PROGRAM).with_name("ringblk"))
    listed = subprocess.run([ringblk, "list"], capture_output=True, text=True, check=True).stdout
    assert str(engine.pid) in listed
    engine.end()


@contextlib.contextmanager
def program(folder: Path, command: Sequence[str]) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A program that runs, and the mark that all its processes have."""
    mark = f"RINGBLK_TEST={folder}"
    process = subprocess.Popen(
        command, env={**environment(), "RINGBLK_TEST": str(folder)}, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process, mark
    finally:
        kill_all_with(mark)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def config_file(folder: Path, **drives: dict[str, object]) -> Path:
    path = folder / "engine.json"
    path.write_text(json.dumps({"control": str(folder / "control"), "drives": drives}))
    return path


def test_an_engine_that_cannot_begin_leaves_no_zygote(tmp_path: Path) -> None:
    config = config_file(tmp_path, vm1={"blk_file": "/nowhere", "socket_path": str(tmp_path / "socket")})
    with program(tmp_path, [PROGRAM, f"--config={config}"]) as (process, mark):
        assert process.wait(DEADLINE_S) == 1
        assert not processes_with(mark)
        assert process.stderr is not None
        assert "/nowhere" in process.stderr.read()


FAILING = """
import sys
from ringblk.engine.program import engine
from ringblk.engine.program.cli import backend_program
def fail(self):
    raise RuntimeError("a mistake")
engine.Engine._note_over = fail
backend_program()
"""


def test_a_mistake_ends_the_engine_as_it_ends_any_program(tmp_path: Path) -> None:
    """A supervisor that ends by an exception is no dead one: the same would come again."""
    drive = {"backend": "memory", "backend_arg": {"size_bytes": "65536"}}
    config = config_file(tmp_path, vm1={**drive, "socket_path": str(tmp_path / "socket")})
    with program(tmp_path, [sys.executable, "-c", FAILING, f"--config={config}"]) as (process, mark):
        assert process.wait(DEADLINE_S) == 1
        wait_none_with(mark)
        assert process.stderr is not None
        errors = process.stderr.read()
        assert "a mistake" in errors
        assert STARTED not in errors


WAITING = """
import sys, time
from ringblk.engine.program import drive_list
from ringblk.engine.program.cli import backend_program
def wait(self):
    print("begun", file=sys.stderr, flush=True)
    time.sleep(1000)
drive_list.DriveList.open = wait
backend_program()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_one_that_begins_ends_it(tmp_path: Path, number: int) -> None:
    drive = {"backend": "memory", "backend_arg": {"size_bytes": "65536"}}
    config = config_file(tmp_path, vm1={**drive, "socket_path": str(tmp_path / "socket")})
    with program(tmp_path, [sys.executable, "-c", WAITING, f"--config={config}"]) as (process, mark):
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(number)
        status = process.wait(DEADLINE_S)
        assert status == (128 + number if number == signal.SIGINT else -number)
        wait_none_with(mark)
        assert STARTED not in process.stderr.read()


def test_the_engine_ends_with_who_wants_it_to(engine: ManyDrives, tmp_path: Path) -> None:
    """One that was started to end with its parent does so, also when it was started again since."""
    drive = {"backend": "memory", "backend_arg": {"size_bytes": "65536"}}
    config = config_file(tmp_path, vm1={**drive, "socket_path": str(tmp_path / "socket")})
    shell = f"setpriv --pdeathsig KILL {PROGRAM} --config={config} & wait"
    with program(tmp_path, ["sh", "-c", shell]) as (process, mark):
        eventually(lambda: (tmp_path / "control").exists(), "the engine")
        process.kill()
        process.wait()
        wait_none_with(mark)
        assert process.stderr is not None
        assert STARTED not in process.stderr.read()


def test_the_variable_is_for_the_zygote() -> None:
    for value in ("", "x", "0", "987654"):
        done = subprocess.run(
            [PROGRAM, "--config=/nowhere"],
            env={**environment(), "RINGBLK_ADOPT": value},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "RINGBLK_ADOPT is for the zygote of an engine to set: unset it" in done.stderr
