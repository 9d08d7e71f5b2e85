"""Where programs are started, how they are told to end, who reads them, and who else starts beside them."""

import ctypes
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.vhost_user.listener import Listener, listen_at
from tests.rigs.engine_rig import DEADLINE_S, MEMORY, MEMORY_BYTES, PROGRAM, EngineWithWorkers, run_program

RINGBLK = str(Path(sys.executable).with_name("ringblk"))
ROUNDS = 40
STARTERS = 4
SYS_PIDFD_OPEN = 434


def run(*arguments: str | bytes, **options: object) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        arguments, check=False, **{"capture_output": True, "timeout": DEADLINE_S, **options}
    )


def assert_one_line(errors: bytes) -> None:
    # What was left behind by engines that others have killed meanwhile is told too, and is no error.
    lines = [line for line in errors.splitlines() if b"INFO: removed shared memory" not in line]
    assert len(lines) == 1, errors.decode(errors="replace")


# How they are told to end.


def test_nohup_keeps_an_engine_running() -> None:
    with EngineWithWorkers(*MEMORY, prepare=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as engine:
        engine.process.send_signal(signal.SIGHUP)
        engine.say_hello()
        assert engine.end() == 0


def test_a_hang_up_of_the_whole_group_drains_the_engine() -> None:
    with EngineWithWorkers(*MEMORY, prepare=os.setsid) as engine:
        children = engine.children()
        os.killpg(engine.process.pid, signal.SIGHUP)
        assert engine.process.wait(DEADLINE_S) == 0
        assert "killed by" not in engine.log()
        engine.assert_nothing_left(children)


# Who starts beside them.


def leave_stale_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def start_listening(path: str, barrier: Barrier, pipe: "Connection[bool, bool]") -> None:
    for _ in range(ROUNDS):
        barrier.wait()
        try:
            end = listen_at("--socket-path", path)
        except ProgramError:
            end = None
        pipe.send(end is not None)
        barrier.wait()  # nobody lets go before all have tried
        if end is not None:
            end.close()


def test_one_of_those_who_start_on_a_stale_socket_at_once_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(STARTERS + 1)
    pipes = [context.Pipe() for _ in range(STARTERS)]
    starters = [
        context.Process(target=start_listening, args=(str(path), barrier, theirs), daemon=True)
        for _, theirs in pipes
    ]
    for starter in starters:
        starter.start()
    for _ in range(ROUNDS):
        leave_stale_socket(path)
        barrier.wait(DEADLINE_S)
        assert sum(ours.recv() for ours, _ in pipes) == 1
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
        barrier.wait(DEADLINE_S)
    for starter in starters:
        starter.join(DEADLINE_S)


def test_a_socket_that_another_has_put_in_its_place_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    first = Listener.at_path(path)
    os.unlink(path)
    second = Listener.at_path(path)
    first.close()
    assert os.path.exists(path)
    second.close()
    assert not os.path.exists(path)


def test_a_lock_that_somebody_keeps_keeps_nobody_from_listening(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    leave_stale_socket(tmp_path / "socket")
    listen_at("--socket-path", str(tmp_path / "socket")).close()
    os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's socket")
def test_a_dead_socket_of_another_user_is_an_error_in_one_line(everybodys_path: Path) -> None:
    path = everybodys_path / "socket"
    leave_stale_socket(path)
    code = (
        "import os, sys; from ringblk.engine.vhost_user.listener import listen_at\n"
        "from ringblk.engine.base.program_error import ProgramError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"try: listen_at('--socket-path', {str(path)!r})\n"
        "except ProgramError as error: sys.exit(str(error))"
    )
    path.chmod(0o777)
    result = run(sys.executable, "-c", code)
    assert result.returncode == 1
    assert result.stderr.decode() == f"--socket-path {path}: Operation not permitted\n"


# Where they are started.


def gone_folder(tmp_path: Path) -> Callable[[], None]:
    def enter() -> None:
        folder = tmp_path / "gone"
        folder.mkdir()
        os.chdir(folder)
        folder.rmdir()

    return enter


def test_an_engine_starts_in_a_folder_that_is_gone(tmp_path: Path, image: Path) -> None:
    with EngineWithWorkers(f"--blk-file={image}", prepare=gone_folder(tmp_path)) as engine:
        assert engine.end() == 0
        assert "Traceback" not in engine.log()


@pytest.mark.parametrize(
    "arguments",
    [
        (PROGRAM, "--socket-path=x", "--blk-file=disk.img"),
        (PROGRAM, "--socket-path=x", *MEMORY),
        (PROGRAM, "--socket-path=x", "--backend=no.such:Class"),
        (RINGBLK, "stat", "no-engine-serves-this.img"),
        (RINGBLK, "image", "create", "disk.img", "1M"),
        (RINGBLK, "image", "info", "disk.img"),
        (RINGBLK, "image", "import", "disk.img", "other.img"),
    ],
)
def test_what_cannot_be_had_where_the_folder_is_gone_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    result = run(*arguments, preexec_fn=gone_folder(tmp_path))
    assert result.returncode == 1
    assert_one_line(result.stderr)


def test_what_is_in_the_way_of_a_socket_is_said_of_the_socket(tmp_path: Path) -> None:
    result = run(PROGRAM, "--socket-path=x", *MEMORY, preexec_fn=gone_folder(tmp_path))
    assert b"--socket-path x: No such file or directory" in result.stderr


# What they are called with.


NO_TEXT = b"d\xff\x1b[31m.img"


def test_names_that_are_no_text_can_be_served_and_looked_at(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/" + NO_TEXT
    with open(path, "wb") as file:
        file.truncate(MEMORY_BYTES)
    with EngineWithWorkers("--blk-file=" + os.fsdecode(path), "--log-format=json") as engine:
        result = run(RINGBLK, "stat", "--json", path)
        assert [found["supervisor_pid"] for found in json.loads(result.stdout)] == [engine.process.pid]
        shown = run(RINGBLK, "stat", path).stdout
        assert b"\x1b" not in shown
        assert b".img" in shown
        assert engine.end() == 0
        for line in engine.log().splitlines():
            assert json.loads(line)["level"] == "info"
    info = json.loads(run(RINGBLK, "image", "info", "--json", path).stdout)
    assert info["path"] == path.decode(errors="replace")
    for environment in ({"LANG": "C"}, {"PYTHONIOENCODING": "utf-8:strict"}):
        result = run(RINGBLK, "image", "info", path, env={**os.environ, **environment})
        assert (result.returncode, result.stderr) == (0, b"")
        assert b"\x1b" not in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (PROGRAM, b"--socket-path=x", b"--blk-file=" + NO_TEXT),
        (PROGRAM, b"--socket-path=x", b"--backend=" + NO_TEXT),
        (PROGRAM, b"--socket-path=x", b"--backend=" + NO_TEXT + b":C"),
        (PROGRAM, b"--socket-path=x", *MEMORY, b"--drive-id=" + NO_TEXT),
        (PROGRAM, b"--socket-path=x", *MEMORY, b"--rate-group=" + NO_TEXT),
        (PROGRAM, b"--socket-path=/nowhere/" + NO_TEXT, *MEMORY),
        (PROGRAM, b"--config=" + NO_TEXT),
        (RINGBLK, "stat", NO_TEXT),
        (RINGBLK, "image", "info", NO_TEXT),
        (RINGBLK, "image", "import", NO_TEXT, "x"),
        (RINGBLK, "image", "export", NO_TEXT, "x.img"),
    ],
)
def test_a_name_that_is_no_text_is_told_in_one_line(
    tmp_path: Path, arguments: tuple[str | bytes, ...]
) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert_one_line(result.stderr)
    assert b"\x1b" not in result.stderr
    assert b"\\udcff" in result.stderr


# Who reads them.


@pytest.mark.parametrize(
    "arguments",
    [
        ("stat",),
        ("stat", "--json"),
        ("image", "info", "disk.img"),
        ("image", "info", "--json", "disk.img"),
        ("serve", "--print-capabilities"),
        ("--help",),
    ],
)
def test_a_reader_that_has_gone_is_no_news(image: Path, arguments: tuple[str, ...]) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with open(write_fd, "wb") as gone:
        result = run(
            RINGBLK, *arguments, capture_output=False, stdout=gone, stderr=subprocess.PIPE, cwd=image.parent
        )
    if arguments[0] == "image":  # an image's commands tell of every error, a pipe's among them
        assert result.stderr in (b"", b"ringblk image: Broken pipe\n")
    else:
        assert result.returncode in (0, 128 + signal.SIGPIPE)
        assert result.stderr == b""


@pytest.mark.parametrize("arguments", [("stat",), ("image", "info", "disk.img")])
def test_a_full_disk_below_standard_output_is_one_line(image: Path, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        result = run(
            RINGBLK, *arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE, cwd=image.parent
        )
    assert result.returncode == 1
    assert_one_line(result.stderr)
    assert b"No space left on device" in result.stderr


# What their kernel refuses.


def refuse_pidfd_open() -> None:
    """In a process that is to be a program: pidfd_open(2) fails, as under the filters of old containers."""
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
    instructions = (
        struct.pack("HBBI", 0x20, 0, 0, 0)  # load the system call's number
        + struct.pack("HBBI", 0x15, 0, 1, SYS_PIDFD_OPEN)
        + struct.pack("HBBI", 0x06, 0, 0, refuse)
        + struct.pack("HBBI", 0x06, 0, 0, allow)
    )
    buffer = ctypes.create_string_buffer(instructions)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privs, set_seccomp, filter_mode = 38, 22, 2
    assert libc.prctl(no_new_privs, 1, 0, 0, 0) == 0
    assert libc.prctl(set_seccomp, filter_mode, ctypes.byref(program), 0, 0) == 0


def test_a_refused_pidfd_open_is_one_line() -> None:
    done = run_program("--socket-path=x", *MEMORY, prepare=refuse_pidfd_open)
    assert done.returncode == 1
    assert_one_line(done.stderr.encode())
    assert "child processes cannot be watched: pidfd_open(2) is refused" in done.stderr


def test_a_living_engine_is_seen_where_pidfd_open_is_refused(image: Path) -> None:
    with EngineWithWorkers(f"--blk-file={image}") as engine:
        done = run_program("--socket-path=x", f"--blk-file={image}", prepare=refuse_pidfd_open)
        assert done.returncode == 1
        assert f"in use by another engine (process {engine.process.pid})" in done.stderr
