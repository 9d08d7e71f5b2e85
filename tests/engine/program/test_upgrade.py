"""The control plane goes on as the program that is installed now, and then the drives' processes.

Fault model: the program that is installed is another version, cannot go on, or does not start; a drive cannot
be upgraded. Deaths meanwhile are in tests/crash/test_walk_control_plane.py.
"""

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.rigs.engine_rig import PROGRAM, eventually
from tests.rigs.many_drives import ManyDrives
from tests.rigs.process_tree import zygotes_of

BLOCK = b"u" * 4096
RINGBLK = str(Path(PROGRAM).with_name("ringblk"))
UPGRADING = "the control plane goes on as the program that is installed now"

INSTALLED = """
from ringblk.engine.program.cli import backend_program
words = open({path!r}).read()
if words == "broken":
    raise ImportError("a part is missing")
if words != "the same":
    from ringblk.engine.program import installed, kept_form
    installed.VERSION = "9.8.7"
if words == "hangs":
    from ringblk.engine.program import start
    start.take_left = lambda fd_texts: __import__("time").sleep(10000)
if words == "another form":
    kept_form.KEPT_FORM = 987
backend_program()
"""
"""A program that is another once the file says so."""


def upgrade(engine: ManyDrives, *options: str) -> subprocess.CompletedProcess[str]:
    command = [RINGBLK, "upgrade", f"--control={engine.control.socket_path}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Installed:
    """What is installed at the moment."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "installed"
        self.become("the same")
        self.program = [sys.executable, "-c", INSTALLED.format(path=str(self._path))]

    def become(self, words: str) -> None:
        self._path.write_text(words)


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


def test_all_of_an_engine_is_upgraded_while_guests_run() -> None:
    drives = {name: {"io_engine": name} for name in ("psync", "io_uring", "io_uring_inline", "sync")}
    with ManyDrives({**drives, "idle": {}, "gone": {}}) as engine:
        disks = {name: engine.frontend(name) for name in drives}
        for disk in disks.values():
            disk.write(0, BLOCK)
        engine.control.change("/drives/psync", iops=1 << 20)
        assert engine.put("came")[0] == 201
        assert engine.delete("gone")[0] == 204
        before = engine.control.get("/drives")["drives"]
        pid, (zygote,) = engine.pid, zygotes_of(engine.pid)
        serving = {name: engine.processes(name) for name in drives}
        own = segments_of(pid, *set().union(*serving.values()))

        done = upgrade(engine, "--control-plane-only")
        assert (done.returncode, done.stderr) == (0, "")
        eventually(engine.find_control_plane, "the upgraded control plane")
        assert engine.pid == pid
        eventually(lambda: zygotes_of(pid) not in ([], [zygote]), "another zygote")
        assert own
        assert not own & removed_segments(after_upgrade(engine))
        assert sorted(engine.control.get("/upgrade")["outdated"]) == sorted(drives)
        after = engine.control.get("/drives")["drives"]
        for name, drive in after.items():
            assert drive.pop("state")["is_outdated"] == (name in drives)
            before[name].pop("state")
        assert after == before
        for name, disk in disks.items():
            assert serving[name] & engine.processes(name)  # workers go when there is no work
            assert disk.read(0, 4096) == BLOCK

        done = upgrade(engine, "--drives-only", "--at-once=3")
        assert (done.returncode, done.stderr) == (0, "")
        assert [line for line in done.stdout.splitlines() if line.endswith(": upgraded")] == sorted(
            f"{name}: upgraded" for name in drives
        )
        for name, disk in disks.items():
            assert disk.read(0, 4096) == BLOCK
            assert not serving[name] & engine.processes(name)
            disk.close()
        assert engine.control.get("/upgrade")["outdated"] == []
        assert " died: " not in engine.log()
        assert engine.end() == 0
        assert "Traceback" not in engine.log()


def segments_of(*pids: int) -> set[str]:
    """The names of the shared memory that these processes have in use."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    return set(re.findall(r"/dev/shm/(ringblk-\S+)", maps))


def removed_segments(log: str) -> set[str]:
    """The memory that a program took for killed engines': on this machine others may have been killed."""
    return set(re.findall(r"ringblk-[\w-]+", "".join(re.findall(r"engines that were killed: (.*)", log))))


def after_upgrade(engine: ManyDrives) -> str:
    """What the next program has said."""
    return engine.log().rpartition(UPGRADING)[2]


def test_one_that_was_started_again_is_upgraded_and_started_again() -> None:
    with ManyDrives({"vm1": {}}) as engine, engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        engine.kill_control_plane()
        for _ in range(2):
            done = upgrade(engine)
            assert (done.returncode, done.stderr) == (0, "")
            assert disk.read(0, 4096) == BLOCK
        assert upgrade(engine, "--control-plane-only").returncode == 0
        engine.kill_control_plane()
        assert disk.read(0, 4096) == BLOCK
        assert engine.control.get("/upgrade")["outdated"] == ["vm1"]
        assert upgrade(engine, "--drives-only").returncode == 0
        assert disk.read(0, 4096) == BLOCK
        assert engine.control.get("/upgrade")["outdated"] == []
        assert "Traceback" not in engine.log()


def test_another_version_goes_on_where_it_can(installed: Installed) -> None:
    with ManyDrives({"vm1": {}}, program=installed.program) as engine, engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        installed.become("another version")
        status, answer = engine.control.ask("POST", "/upgrade")
        assert (status, answer["version"], answer["outdated"]) == (200, "9.8.7", [])
        eventually(
            lambda: (
                engine.find_control_plane()
                and engine.control.get("/upgrade")["program_id"] != answer["program_id"]
            ),
            "the next control plane",
        )
        assert disk.read(0, 4096) == BLOCK


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("another form", "version 9.8.7 is installed, which cannot go on from version"),
        ("broken", "does not start (status 1)"),
    ],
)
def test_a_program_that_cannot_go_on_is_refused(installed: Installed, words: str, reason: str) -> None:
    with ManyDrives({"vm1": {}}, program=installed.program) as engine, engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        children, (zygote,) = engine.children(), zygotes_of(engine.pid)
        installed.become(words)
        done = upgrade(engine)
        assert done.returncode == 1
        assert reason in done.stderr
        assert done.stdout == ""
        assert engine.children() == children
        assert zygotes_of(engine.pid) == [zygote]
        disk.write(4096, BLOCK)
        installed.become("the same")
        assert upgrade(engine).returncode == 0
        assert disk.read(0, 8192) == BLOCK * 2


def test_a_class_of_a_user_is_not_upgraded_under_its_guest(tmp_path: Path) -> None:
    with ManyDrives(
        {"vm1": {"backend": "tests.rigs.backends.ram_disk:RamDisk", "backend_arg": {"size_bytes": "65536"}}}
    ) as engine:
        with engine.frontend("vm1") as disk:
            disk.write(0, BLOCK)
            done = upgrade(engine)
            assert done.returncode == 1
            assert "drive vm1 serves a front end, and is of a backend" in done.stderr
            assert disk.read(0, 4096) == BLOCK
        eventually(lambda: not engine.snapshots()["vm1"].is_connected, "the end of the session")
        assert upgrade(engine).returncode == 0
        assert engine.states() == {"vm1": "running"}


def test_what_cannot_be_asked_for_is_said_in_a_line(tmp_path: Path) -> None:
    command = [RINGBLK, "upgrade", f"--control={tmp_path / 'nowhere'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no engine listens there" in done.stderr
    done = subprocess.run([*command, "--at-once=0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert os.path.exists(RINGBLK)


def test_two_upgrades_at_once_are_both_done() -> None:
    """Each is cut off by the other, and goes on with the control plane that comes."""
    with ManyDrives({"vm1": {}, "vm2": {}}) as engine, engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        command = [RINGBLK, "upgrade", f"--control={engine.control.socket_path}"]
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in running:
            said, errors = process.communicate()
            assert process.returncode == 0, errors
            assert "control plane: version" in said
        assert disk.read(0, 4096) == BLOCK
        assert engine.control.get("/upgrade")["outdated"] == []


def test_no_change_is_cut_off_by_an_upgrade() -> None:
    """Each request is answered, by this control plane or the next: none is begun and left."""
    with ManyDrives({"vm1": {}}) as engine:
        upgraded = threading.Event()
        answers: list[tuple[int, int]] = []

        def change() -> None:
            while not upgraded.is_set():
                answers.append((engine.put("vm2")[0], engine.delete("vm2")[0]))

        with ThreadPoolExecutor(1) as threads:
            changing = threads.submit(change)
            try:
                for _ in range(2):
                    former = engine.control.get("/upgrade")["program_id"]
                    # 409: the drive is just being started
                    eventually(lambda: engine.control.ask("POST", "/upgrade")[0] == 200, "an upgrade")
                    eventually(
                        lambda: engine.control.get("/upgrade")["program_id"] != former,  # noqa: B023
                        "the next control plane",
                    )
            finally:
                upgraded.set()
            changing.result()
        assert set(answers) == {(201, 204)}
        assert "Traceback" not in engine.log()


def test_a_control_plane_that_does_not_come_back_is_said(installed: Installed) -> None:
    """Fault: the next one hangs before it listens. Guests go on, and the command ends."""
    command = [sys.executable, "-c", HASTY.format(path=RINGBLK)]
    with ManyDrives({"vm1": {}}, program=installed.program) as engine, engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        installed.become("hangs")
        done = subprocess.run(
            [*command, "upgrade", f"--control={engine.control.socket_path}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "the control plane has not come back in 1 s" in done.stderr
        assert "guests go on" in done.stderr
        assert disk.read(0, 4096) == BLOCK
        disk.request_timeout_s = 0.0  # it hangs up: nobody is there who answers


HASTY = """
import sys
from ringblk.engine.client import upgrade_command
upgrade_command.PATIENCE_S = 1.0
sys.argv[0] = {path!r}
from ringblk.engine.program.cli import main
sys.exit(main())
"""
