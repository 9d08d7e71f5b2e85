"""Programs that are started with some of their standard descriptors closed."""

import array
import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import Frontend
from tests.rigs.child_process import ends_with_tests
from tests.rigs.engine_rig import DEADLINE_S, PROGRAM, accepts, eventually
from tests.rigs.process_tree import drive_processes_of, zygotes_of

SIZE = 1 << 20
CLOSED = [fds for count in (1, 2, 3) for fds in itertools.combinations((0, 1, 2), count)]
EACH_CLOSED = pytest.mark.parametrize("closed", CLOSED, ids=lambda fds: "".join(map(str, fds)))
NOTHING = Path(os.devnull)
RINGBLK = str(Path(PROGRAM).with_name("ringblk"))


def without(closed: tuple[int, ...], command: list[str]) -> list[str]:
    """The command, started with those descriptors closed."""
    closing = " ".join(f"{fd}<&-" for fd in closed)
    return ["/bin/sh", "-c", f'exec "$@" {closing}', "sh", *command]


def opened(pid: int, fd: int) -> Path:
    return Path(f"/proc/{pid}/fd/{fd}").readlink()


@contextlib.contextmanager
def engine_without(closed: tuple[int, ...], image: Path, program: list[str]) -> Iterator[Frontend]:
    """A front end of an engine on `image` that it has started itself."""
    options = ["--fd={fd}", f"--blk-file={image}", "--workers=2", "--io-engine=psync"]
    with Frontend(without(closed, [*program, *options])) as disk:
        yield disk


@pytest.mark.parametrize(
    ("program", "closed"),
    [
        *(([PROGRAM], fds) for fds in CLOSED),
        ([RINGBLK, "serve"], (0, 1, 2)),
        ([sys.executable, "-m", "ringblk", "serve"], (0, 1, 2)),
    ],
    ids=lambda value: "".join(map(str, value)) if isinstance(value, tuple) else Path(value[0]).name,
)
def test_an_engine_starts_and_serves(program: list[str], closed: tuple[int, ...], tmp_path: Path) -> None:
    """Of all its processes, what was closed is /dev/null, and the image has a number of its own."""
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    with engine_without(closed, image, program) as disk:
        disk.write(0, b"x" * 4096)
        disk.flush()
        assert disk.read(0, 4096) == b"x" * 4096
        pid = disk.backend_pid
        assert pid is not None
        children = drive_processes_of(pid)
        assert len(children) == 2  # the dispatcher, and a worker that came for the write
        for process in (pid, *zygotes_of(pid), *children):
            assert [opened(process, fd) for fd in closed] == [NOTHING] * len(closed)
    assert image.read_bytes() == b"x" * 4096 + bytes(SIZE - 4096)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=lambda fds: "".join(map(str, fds)))
def test_a_command_does_its_work(closed: tuple[int, ...], tmp_path: Path) -> None:
    image, copy = tmp_path / "image", tmp_path / "copy.qcow2"
    content = bytes(range(256)) * (SIZE // 256)
    for arguments in (
        ["image", "create", str(tmp_path / "new"), "1M"],
        ["image", "export", str(image), str(copy)],
        ["image", "info", str(copy)],
        ["image", "import", str(copy), str(tmp_path / "again")],
        ["stat"],
        ["stat", "--json"],
        ["top", "--frames=1", "--interval=0.1"],
        ["--version"],
        [],
    ):
        image.write_bytes(content)
        done = subprocess.run(
            without(closed, [RINGBLK, *arguments]), capture_output=True, timeout=DEADLINE_S, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), arguments
    assert (tmp_path / "again").read_bytes() == content
    assert (tmp_path / "new").read_bytes() == bytes(SIZE)


@EACH_CLOSED
def test_an_error_is_an_error(closed: tuple[int, ...]) -> None:
    done = subprocess.run(
        without(closed, [PROGRAM, "--nonsense"]), capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == (0 if 2 in closed else 1)


def test_the_log_goes_where_standard_error_is(tmp_path: Path) -> None:
    """Not into the file that would otherwise have its number."""
    log, socket_path = tmp_path / "log", tmp_path / "socket"
    options = [f"--socket-path={socket_path}", "--backend=memory", f"--backend-arg=size_bytes={SIZE}"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(ends_with_tests(without((0, 1), [PROGRAM, *options])), stderr=stderr)
    eventually(lambda: accepts(socket_path), "the socket")
    assert opened(process.pid, 2) == log
    eventually(lambda: b"the front end has disconnected" in log.read_bytes(), "the log line")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0


BUFFERING = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


def ringblk(unbuffered: str, *arguments: str, stdout: int) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.Popen(
        ends_with_tests([RINGBLK, *arguments]), stdout=stdout, stderr=subprocess.PIPE, env=environment
    )


@BUFFERING
def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_all_of_it(unbuffered: str) -> None:
    """The help is longer than the pipe, which another program that has it too has made non-blocking."""
    whole = subprocess.run([RINGBLK, "serve", "--help"], capture_output=True, check=True).stdout
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    pipe_bytes = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    assert pipe_bytes < len(whole)
    process = ringblk(unbuffered, "serve", "--help", stdout=writer)
    queued = array.array("i", [0])

    def is_full() -> bool:
        fcntl.ioctl(reader, termios.FIONREAD, queued)
        return queued[0] == pipe_bytes or process.poll() is not None

    eventually(is_full, "a full pipe")
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == whole
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(DEADLINE_S)) == (b"", 0)
    process.stderr.close()


@BUFFERING
@pytest.mark.parametrize("arguments", [["--version"], ["serve", "--print-capabilities"], ["stat", "--json"]])
def test_what_a_full_disk_does_not_take_is_an_error(unbuffered: str, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        process = ringblk(unbuffered, *arguments, stdout=full.fileno())
        _, told = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, told) == (1, b"ringblk: No space left on device\n")


@BUFFERING
def test_a_file_that_may_grow_no_further_is_an_error(unbuffered: str, tmp_path: Path) -> None:
    """It takes the beginning: a short write, and the next one fails."""
    target = tmp_path / "help"
    with target.open("wb") as file:
        process = subprocess.run(
            ["/bin/sh", "-c", 'ulimit -f 1; trap "" XFSZ; exec "$@"', "sh", RINGBLK, "serve", "--help"],
            stdout=file,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=DEADLINE_S,
            check=False,
        )
    assert (process.returncode, process.stderr) == (1, b"ringblk: File too large\n")
