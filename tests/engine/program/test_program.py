"""The program: the conventions for vhost-user backends, its errors, and what it leaves behind (nothing)."""

import importlib.metadata
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ringblk.engine.statistics.running_engines import RunningEngines
from ringblk.shm.segments.shared_folder import shared_names
from tests.rigs.engine_rig import (
    DEADLINE_S,
    MEMORY,
    MEMORY_BYTES,
    Engine,
    EngineWithWorkers,
    Gate,
    RawFrontend,
    eventually,
    raw_frontend,
    run_program,
)
from tests.rigs.inline_device import FLUSH, IN, OK, OUT
from tests.rigs.process_tree import has_ended

ENDING_SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])


# The conventions.


@pytest.mark.parametrize("others", [(), ("--socket-path=/x", "--blk-file=/nowhere"), ("--nonsense", "word")])
def test_capabilities_are_printed_and_everything_else_ignored(others: tuple[str, ...]) -> None:
    done = run_program("--print-capabilities", *others)
    assert json.loads(done.stdout) == {"type": "block", "features": ["read-only", "blk-file"]}
    assert (done.returncode, done.stderr) == (0, "")


def run_ringblk(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("ringblk"))
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )


def test_the_other_program_is_the_same() -> None:
    for arguments, status in (
        (["serve", "--print-capabilities"], 0),
        (["serve"], 2),
    ):
        done = run_ringblk(*arguments)
        assert done.returncode == status
        assert len((done.stdout + done.stderr).splitlines()) == 1


@pytest.mark.parametrize("arguments", [["dance"], ["image", "dance"], ["stat", "one", "two"], ["--dance"]])
def test_an_unknown_command_is_one_line(arguments: list[str]) -> None:
    done = run_ringblk(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("ringblk: ")
    assert arguments[-1] in line


TOP_COMMANDS = {
    *("serve", "image", "crashes", "list", "stat", "top", "drive", "upgrade", "doctor", "schema"),
    "completion",
}
IMAGE_COMMANDS = {
    *(
        "create",
        "import",
        "export",
        "info",
        "check",
        "diff",
        "rebase",
        "flatten",
        "commit",
        "point",
        "manifest",
    ),
}


@pytest.mark.parametrize(
    ("arguments", "commands"),
    [([], TOP_COMMANDS), (["image"], IMAGE_COMMANDS)],
)
def test_without_a_command_it_says_which_there_are(arguments: list[str], commands: set[str]) -> None:
    done = run_ringblk(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert set(re.findall(r"^ {4}(\w+)", done.stdout, re.MULTILINE)) == commands
    assert run_ringblk(*arguments, "--help").stdout == done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["ringblk"],
        ["vhost-user-ringblk"],
        ["python", "-m", "ringblk"],
        *(["ringblk", *words.split()] for words in ("serve", "image", "image export", "stat", "top")),
        ["ringblk", "doctor"],
    ],
    ids=" ".join,
)
def test_the_version(command: list[str]) -> None:
    program, *arguments = [*command, "--version"]
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"ringblk {importlib.metadata.version('ringblk')}\n"


def test_the_module_is_the_same_program() -> None:
    for arguments in (["serve", "--print-capabilities"], ["image"], ["dance"]):
        done = subprocess.run(
            [sys.executable, "-m", "ringblk", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        same = run_ringblk(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (same.returncode, same.stdout, same.stderr)


def test_a_connected_descriptor_is_served_and_over() -> None:
    ours, theirs = socket.socketpair()
    with theirs, EngineWithWorkers(*MEMORY, fd=theirs.fileno()) as engine:
        theirs.close()
        with RawFrontend(ours) as frontend:
            frontend.set_up()
            children = engine.children()
            assert frontend.queues[0].request(OUT, data=bytes(512))[0] == OK
        assert engine.process.wait(DEADLINE_S) == 0
        engine.assert_nothing_left(children)


@ENDING_SIGNALS
def test_the_front_end_sees_the_end_of_a_connected_descriptor(number: int) -> None:
    ours, theirs = socket.socketpair()
    with EngineWithWorkers(*MEMORY, fd=theirs.fileno()) as engine:
        theirs.close()
        with RawFrontend(ours) as frontend:
            frontend.set_up()
            assert engine.end(number) == 0
            assert ours.recv(1) == b""


def test_a_listening_descriptor_serves_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "listening"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)
        with EngineWithWorkers(*MEMORY, fd=listening.fileno()) as engine:
            for _ in range(3):
                connected = socket.socket(socket.AF_UNIX)
                connected.connect(str(path))
                with RawFrontend(connected) as frontend:
                    assert frontend.set_up().queues[0].request(OUT, data=bytes(512))[0] == OK
            assert engine.end() == 0
            assert path.exists()  # it was not the engine's


# Its end.


@ENDING_SIGNALS
@pytest.mark.parametrize("io_engine", ["psync", "sync"])
@pytest.mark.parametrize("has_session", [False, True])
def test_a_signal_ends_it_with_status_0_and_nothing_left(
    number: int, io_engine: str, has_session: bool
) -> None:
    with EngineWithWorkers(*MEMORY, f"--io-engine={io_engine}", "--workers=2") as engine:
        children = engine.children()
        assert len(children) == (3 if io_engine == "psync" else 1)
        assert shared_names(engine.segment_name) == [engine.segment_name]
        if has_session:
            with raw_frontend(engine) as frontend:
                assert frontend.queues[0].request(OUT, data=bytes(512))[0] == OK
                assert engine.end(number) == 0
        else:
            assert engine.end(number) == 0
        engine.assert_nothing_left(children)


@ENDING_SIGNALS
def test_what_is_in_flight_is_done_first(number: int, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with EngineWithWorkers(*gate.options(), "--workers=1") as engine, raw_frontend(engine) as frontend:
        children = engine.children()
        status_gpa = frontend.queues[0].offer(FLUSH)
        gate.wait_for_requests(1)
        engine.process.send_signal(number)
        gate.open()
        assert engine.process.wait(DEADLINE_S) == 0
        assert frontend.queues[0].wait_used(1) == [(0, 1)]
        assert frontend.queues[0].driver.read(status_gpa, 1) == b"\0"
        engine.assert_nothing_left(children)


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with EngineWithWorkers(*gate.options(), "--workers=1") as engine, raw_frontend(engine) as frontend:
        children = engine.children()
        frontend.queues[0].offer(FLUSH)
        gate.wait_for_requests(1)
        engine.process.send_signal(signal.SIGTERM)
        eventually(lambda: has_ended_after_a_signal(engine), "a second signal's ending it")
        assert "told to end twice" in engine.log()
        engine.assert_nothing_left(children)


def has_ended_after_a_signal(engine: Engine) -> bool:
    """Send another one: those that come very soon after the first count as the same."""
    engine.process.send_signal(signal.SIGTERM)
    return engine.process.poll() is not None


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with EngineWithWorkers(*gate.options(), "--workers=1") as engine, raw_frontend(engine) as frontend:
        children = engine.children()
        status_gpa = frontend.queues[0].offer(FLUSH)
        gate.wait_for_requests(1)
        engine.process.send_signal(signal.SIGTERM)
        engine.process.send_signal(signal.SIGINT)
        gate.open()
        assert engine.process.wait(DEADLINE_S) == 0
        assert frontend.queues[0].wait_used(1) == [(0, 1)]
        assert frontend.queues[0].driver.read(status_gpa, 1) == b"\0"
        engine.assert_nothing_left(children)


# What cannot be honoured: one clear line and a status.


def test_an_image_behind_a_descriptor_is_served_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"s" * MEMORY_BYTES)
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 4096, os.SEEK_SET)
    with EngineWithWorkers("--blk-file=/dev/fd/0", prepare=lambda: os.dup2(fd, 0)) as engine:
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(IN, read_bytes=512) == (OK, b"s" * 512)
            assert frontend.queues[0].request(OUT, 1, data=b"t" * 512)[0] == OK
        running = RunningEngines(str(engine.process.pid))
        assert [found.drive for found in running.snapshots()] == [str(path)]
        assert engine.end() == 0
    assert path.read_bytes() == b"s" * 512 + b"t" * 512 + b"s" * (MEMORY_BYTES - 1024)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 4096
    os.close(fd)


# The configuration file.


# What it leaves behind.


def test_orphans_are_removed_at_the_next_start_and_living_ones_kept() -> None:
    """By whichever engine starts next: others start on this machine, too, so it is tried until it is ours."""
    with EngineWithWorkers(*MEMORY) as living:
        while not an_orphan_is_removed_by_our_next_engine():
            pass
        assert shared_names(living.segment_name) == [living.segment_name]
        with raw_frontend(living) as frontend:
            assert frontend.queues[0].request(IN, read_bytes=512) == (OK, bytes(512))


def an_orphan_is_removed_by_our_next_engine() -> bool:
    """Kill an engine and start another: nothing is left. Whether the other says that it removed it."""
    with EngineWithWorkers(*MEMORY) as killed:
        children = killed.children()
        killed.end(signal.SIGKILL)
        eventually(lambda: all(map(has_ended, children)), "the children's end")
        with EngineWithWorkers(*MEMORY) as next_one:
            assert shared_names(killed.segment_name) == []
            return killed.segment_name in next_one.log()


def test_children_hold_no_descriptor_of_the_front_end() -> None:
    ours, theirs = socket.socketpair()
    with EngineWithWorkers(*MEMORY, fd=theirs.fileno()) as engine:
        connection = f"socket:[{os.fstat(theirs.fileno()).st_ino}]"
        theirs.close()
        with RawFrontend(ours) as frontend:
            frontend.set_up()
            links = {
                pid: [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
                for pid in (engine.process.pid, *engine.children())
            }
    assert [pid for pid, found in links.items() if connection in found] == [engine.process.pid]
    assert len(links) == 6


def test_1000_connections_leave_nothing() -> None:
    with EngineWithWorkers(*MEMORY, "--workers=2", "--num-queues=2") as engine:

        def use(rounds: int) -> None:
            for number in range(rounds):
                if number % 20:
                    engine.say_hello()
                    continue
                with raw_frontend(engine, num_queues=2) as frontend:
                    assert frontend.queues[number // 20 % 2].request(OUT, data=bytes(512))[0] == OK

        def holdings() -> dict[int, int]:
            with RawFrontend(engine) as frontend:
                frontend.connection.get_features()  # its session has begun, and so all others are over
                eventually(lambda: not any(engine.mappings().values()), "no memory mapped")
                return engine.open_fds()

        use(40)
        before = holdings()
        use(1000)
        # The same processes, each with as many descriptors; a session has two more once it waits for news.
        eventually(lambda: holdings() == before, "what was there before")
        children = engine.children()
        assert shared_names(engine.segment_name) == [engine.segment_name]
        assert engine.end() == 0
        engine.assert_nothing_left(children)
