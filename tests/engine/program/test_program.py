"""The program: the conventions for vhost-user backends, its errors, and what it leaves behind (nothing)."""

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ringblk.engine.statistics.running_engines import RunningEngines
from ringblk.shm.segments.segment import segment_names
from tests.rigs.child_process import ends_with_tests
from tests.rigs.engine_rig import (
    DEADLINE_S,
    PROGRAM,
    Engine,
    Gate,
    RawFrontend,
    eventually,
    is_alive,
    raw_frontend,
    run_program,
)
from tests.rigs.inline_device import FLUSH, IN, OK, OUT

SIZE = 1 << 20
MEMORY = ("--backend=memory", f"--backend-arg=size_bytes={SIZE}")
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


@pytest.mark.parametrize(
    ("arguments", "commands"),
    [([], {"serve", "image", "stat", "top"}), (["image"], {"create", "import", "export", "info"})],
)
def test_without_a_command_it_says_which_there_are(arguments: list[str], commands: set[str]) -> None:
    done = run_ringblk(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ")} == commands
    assert run_ringblk(*arguments, "--help").stdout == done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["ringblk"],
        ["vhost-user-ringblk"],
        ["python", "-m", "ringblk"],
        *(["ringblk", *words.split()] for words in ("serve", "image", "image export", "stat", "top")),
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
    with theirs, Engine(*MEMORY, fd=theirs.fileno()) as engine:
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
    with Engine(*MEMORY, fd=theirs.fileno()) as engine:
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
        with Engine(*MEMORY, fd=listening.fileno()) as engine:
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
    with Engine(*MEMORY, f"--io-engine={io_engine}", "--workers=2") as engine:
        children = engine.children()
        assert len(children) == (3 if io_engine == "psync" else 1)
        assert segment_names(engine.segment_name) == [engine.segment_name]
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
    with Engine(*gate.options(), "--workers=1") as engine, raw_frontend(engine) as frontend:
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
    with Engine(*gate.options(), "--workers=1") as engine, raw_frontend(engine) as frontend:
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
    with Engine(*gate.options(), "--workers=1") as engine, raw_frontend(engine) as frontend:
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


def with_socket(*options: str) -> list[str]:
    return ["--socket-path=/tmp/ringblk-test-never", *options]


USAGE_ERRORS = {
    "nothing": ([], "--socket-path"),
    "no way in": (list(MEMORY), "--socket-path"),
    "two ways in": (with_socket("--fd=3", *MEMORY), "--fd"),
    "no image": (with_socket(), "--blk-file"),
    "two images": (with_socket("--blk-file=x", *MEMORY), "--backend"),
    "unknown option": (with_socket("--wrokers=3", *MEMORY), "--wrokers"),
    "no worker": (with_socket("--workers=0", *MEMORY), "--workers"),
    "65 workers": (with_socket("--workers=65", *MEMORY), "--workers"),
    "workers as a word": (with_socket("--workers=many", *MEMORY), "--workers"),
    "65 queues": (with_socket("--num-queues=65", *MEMORY), "--num-queues"),
    "part of an option": (with_socket("--socket=/tmp/ringblk-test-other", *MEMORY), "--socket"),
    "no name for the socket": (["--socket-path=", *MEMORY], "--socket-path"),
    "direct without a file": (with_socket("--direct=on", *MEMORY), "--direct"),
    "queue of 100": (with_socket("--queue-size=100", *MEMORY), "--queue-size"),
    "queue of 65536": (with_socket("--queue-size=65536", *MEMORY), "--queue-size"),
    "unknown cache": (with_socket("--cache=maybe", *MEMORY), "--cache: maybe is none of writeback, unsafe"),
    "unknown direct": (with_socket("--direct=perhaps", *MEMORY), "--direct"),
    "unknown engine": (with_socket("--io-engine=steam", *MEMORY), "--io-engine"),
    "block of 1000": (with_socket("--logical-block-size=1000", *MEMORY), "--logical-block-size"),
    "block of 8192": (with_socket("--logical-block-size=8192", *MEMORY), "--logical-block-size"),
    "physical block of 1000": (with_socket("--physical-block-size=1000", *MEMORY), "--physical-block-size"),
    "physical block of 65536": (with_socket("--physical-block-size=65536", *MEMORY), "--physical-block-size"),
    "physical block below the logical": (
        with_socket("--physical-block-size=512", "--logical-block-size=4096", *MEMORY),
        "--physical-block-size",
    ),
    "argument without value": (with_socket("--backend=memory", "--backend-arg=size_bytes"), "--backend-arg"),
    "argument without backend": (with_socket("--blk-file=x", "--backend-arg=a=b"), "--backend-arg"),
    "burst of years": (
        with_socket("--iops=5", "--iops-burst=99999999999999999", *MEMORY),
        "--iops-burst: 99999999999999999 is years' worth",
    ),
    "burst of nothing": (
        with_socket("--iops-burst=9", *MEMORY),
        "--iops-burst: is given without --iops or --iops-read or --iops-write",
    ),
    "limit too slow": (
        with_socket('--rate-limiter={"ops": {"size": 1, "refill_time": 9999999}}', *MEMORY),
        "--rate-limiter: ops.size: slower than one token",
    ),
    "limit without its time": (
        with_socket('--rate-limiter={"ops": {"size": 1}}', *MEMORY),
        "--rate-limiter: ops: Object missing required field `refill_time`",
    ),
    "limits in two forms": (
        with_socket("--rate-limiter={}", "--iops-read=9", *MEMORY),
        "give one of --rate-limiter and --iops-read",
    ),
    "missing value": (with_socket("--workers"), "--workers"),
}


@pytest.mark.parametrize(("options", "named"), USAGE_ERRORS.values(), ids=USAGE_ERRORS)
def test_a_wrong_command_line(options: list[str], named: str) -> None:
    done = run_program(*options)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--blk-file=/nowhere/disk.img"], "--blk-file /nowhere/disk.img: can't open it: No such file"),
        (["--blk-file=/dev/shm"], "--blk-file /dev/shm"),
        (["--backend=no_such_module:Disk"], "no_such_module"),
        (["--backend=gated_disk:NoSuchDisk"], "NoSuchDisk"),
        (["--backend=gated_disk:FailingDisk"], "size_bytes is missing"),
        (["--backend=gated_disk:FailingDisk", "--backend-arg=size_bytes=many"], "size_bytes=many"),
        (["--backend=memory", "--backend-arg=size_bytes=1000"], "size_bytes is 1000"),
    ],
)
def test_what_the_system_refuses(options: list[str], named: str) -> None:
    done = run_program(*with_socket(*options))
    assert done.returncode == 1
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def own_lines(done: subprocess.CompletedProcess[str]) -> str:
    """What a program wrote to stderr, but for its word on engines that were killed before it started."""
    lines = done.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if "engines that were killed" not in line)


@pytest.mark.parametrize(
    ("socket_path", "said"),
    [
        ("/nowhere/socket", "No such file"),
        ("/dev/null", "a device or pipe is in the way"),
        ("/tmp/" + "x" * 200, "too long"),
    ],
)
def test_a_socket_that_cannot_be(socket_path: str, said: str) -> None:
    done = run_program(f"--socket-path={socket_path}", *MEMORY)
    assert done.returncode == 1
    assert own_lines(done).startswith(f"vhost-user-ringblk: --socket-path {socket_path}: ")
    assert said in done.stderr
    assert len(own_lines(done).splitlines()) == 1


@pytest.mark.parametrize("option", ["socket-path", "control"])
@pytest.mark.parametrize("obstacle", ["a folder", "a file", "a link to nothing"])
def test_what_is_in_a_sockets_way(tmp_path: Path, option: str, obstacle: str) -> None:
    path = tmp_path / "obstacle"
    if obstacle == "a folder":
        path.mkdir()
    elif obstacle == "a file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "nothing")
    before = path.lstat().st_ino
    others = [] if option == "socket-path" else [f"--socket-path={tmp_path / 'socket'}"]
    done = run_program(f"--{option}={path}", *others, *MEMORY)
    assert done.returncode == 1
    assert own_lines(done) == f"vhost-user-ringblk: --{option} {path}: {obstacle} is in the way\n"
    assert path.lstat().st_ino == before


@pytest.mark.parametrize("fd", [0, 77])
def test_a_descriptor_that_is_no_socket(fd: int) -> None:
    done = run_program(f"--fd={fd}", *MEMORY)
    assert done.returncode == 1
    assert own_lines(done).startswith(f"vhost-user-ringblk: --fd {fd}: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_image_behind_a_descriptor_is_served_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"s" * SIZE)
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 4096, os.SEEK_SET)
    with Engine("--blk-file=/dev/fd/0", prepare=lambda: os.dup2(fd, 0)) as engine:
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(IN, read_bytes=512) == (OK, b"s" * 512)
            assert frontend.queues[0].request(OUT, 1, data=b"t" * 512)[0] == OK
        running = RunningEngines(str(engine.process.pid))
        assert [found.drive for found in running.snapshots()] == [str(path)]
        assert engine.end() == 0
    assert path.read_bytes() == b"s" * 512 + b"t" * 512 + b"s" * (SIZE - 1024)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 4096
    os.close(fd)


def test_the_path_of_a_living_engine_is_not_taken() -> None:
    with Engine(*MEMORY) as engine:
        done = run_program(f"--socket-path={engine.socket_path}", *MEMORY)
        assert done.returncode == 1
        assert "in use" in done.stderr
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(IN, read_bytes=512) == (OK, bytes(512))


def test_the_path_of_a_killed_engine_is_taken(tmp_path: Path) -> None:
    with Engine(*MEMORY) as engine:
        engine.end(signal.SIGKILL)
        assert engine.socket_path.exists()
        again = subprocess.Popen(ends_with_tests([PROGRAM, f"--socket-path={engine.socket_path}", *MEMORY]))
        try:
            eventually(engine.is_listening, "listening")
            again.terminate()
            assert again.wait(DEADLINE_S) == 0
            assert not engine.socket_path.exists()
        finally:
            again.kill()
            again.wait()


# The configuration file.


def test_a_configuration_file_and_options_over_it(tmp_path: Path) -> None:
    config = tmp_path / "engine.json"
    fields = {"backend": "memory", "backend_arg": {"size_bytes": str(SIZE)}, "workers": 3, "num_queues": 5}
    config.write_text(json.dumps(fields))
    with Engine(f"--config={config}", "--workers=1") as engine:
        assert len(engine.children()) == 2
        with RawFrontend(engine) as frontend:
            frontend.negotiate()
            assert frontend.connection.get_queue_num() == 5


@pytest.mark.parametrize(
    ("text", "status", "named"),
    [
        ('{"wrokers": 3}', 2, "wrokers"),
        ('{"workers": "three"}', 2, "workers"),
        ('{"workers": 99}', 2, "workers"),
        ('{"backend_arg": {"size_bytes": 5}}', 2, "backend_arg"),
        ("[1, 2]", 2, "not a JSON object"),
        ("{", 2, "engine.json"),
        (None, 1, "engine.json"),
        ('{"drive-id": "x"}', 2, "`drive-id` is written `drive_id` here"),
        ('{"--read-only": true}', 2, "`--read-only` is written `read_only` here"),
    ],
)
def test_a_wrong_configuration_file(tmp_path: Path, text: str | None, status: int, named: str) -> None:
    config = tmp_path / "engine.json"
    if text is not None:
        config.write_text(text)
    done = run_program(f"--config={config}", *with_socket(*MEMORY))
    assert done.returncode == status
    assert done.stderr.startswith(f"vhost-user-ringblk: --config {config}: ")
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


# What it leaves behind.


def test_orphans_are_removed_at_the_next_start_and_living_ones_kept() -> None:
    with Engine(*MEMORY) as living, Engine(*MEMORY) as killed:
        children = killed.children()
        killed.end(signal.SIGKILL)
        eventually(lambda: not any(is_alive(pid) for pid in children), "the children's end")
        left = segment_names(killed.segment_name)  # nothing, if some other engine has just been started here
        with Engine(*MEMORY) as next_one:
            assert segment_names(killed.segment_name) == []
            assert segment_names(living.segment_name) == [living.segment_name]
            assert all(name in next_one.log() for name in left)
        with raw_frontend(living) as frontend:
            assert frontend.queues[0].request(IN, read_bytes=512) == (OK, bytes(512))


def test_children_hold_no_descriptor_of_the_front_end() -> None:
    ours, theirs = socket.socketpair()
    with Engine(*MEMORY, fd=theirs.fileno()) as engine:
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
    with Engine(*MEMORY, "--workers=2", "--num-queues=2") as engine:

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
        assert holdings() == before  # the same processes, each with as many descriptors
        children = engine.children()
        assert segment_names(engine.segment_name) == [engine.segment_name]
        assert engine.end() == 0
        engine.assert_nothing_left(children)
