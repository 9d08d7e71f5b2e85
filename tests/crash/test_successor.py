"""Two engines and one image: a second one is refused, a successor waits for the last process, --takeover."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import SEGMENT_PREFIX
from tests.crash.rig import Rig
from tests.rigs import standing_workers
from tests.rigs.engine_process import EngineProcess, wait_gone

_MAIN = "from ringblk.engine.program.cli import backend_program; backend_program()"
_IMPATIENT = f"from ringblk.engine.program import image_claim; image_claim.DEAD_HOLDER_S = 0.1; {_MAIN}"
"""It does not wait as long for what is left of a dead engine."""
_PIDFD_GETFD = 438
_LOCKER = """
import os, sys
from ringblk.workers.backends.image_lock import lock_image
lock_image(os.open(sys.argv[1], os.O_RDWR), read_only=False)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, has_crash_points=False, program=standing_workers.PROGRAM)
    yield rig
    rig.close()


def run_second(rig: Rig, *options: str, program: str = _MAIN) -> "subprocess.CompletedProcess[str]":
    """Another engine on the same image, which is expected to end by itself."""
    command = [sys.executable, "-c", program, f"--socket-path={rig.socket_path}2", f"--blk-file={rig.image}"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("options", [(), ("--read-only",)])
def test_a_second_engine_is_refused(rig: Rig, options: tuple[str, ...]) -> None:
    second = run_second(rig, *options)
    assert second.returncode == 1
    assert second.stderr.splitlines() == [
        f"vhost-user-ringblk: --blk-file {rig.image}: in use by another engine (process {rig.engine.pid})"
    ]
    rig.run(50)
    rig.check()


def test_read_only_engines_share_an_image(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    options = [f"--blk-file={image}", "--read-only", "--workers=1"]
    with EngineProcess(tmp_path / "a", options), EngineProcess(tmp_path / "b", options):
        pass


def test_a_program_that_is_no_engine_is_named_as_such(tmp_path: Path, rig: Rig) -> None:
    rig.run(10)
    rig.drain()
    pids = [rig.engine.pid, *rig.engine.children().values()]
    rig.engine.process.kill()
    wait_gone(pids)
    with subprocess.Popen(
        [sys.executable, "-c", _LOCKER, str(rig.image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        second = run_second(rig, program=_IMPATIENT)
        assert other.stdin is not None
        other.stdin.close()
    assert second.returncode == 1
    assert "in use by another program" in second.stderr
    rig.run(10)


def test_a_successor_waits_for_the_last_process(rig: Rig) -> None:
    rig.run(50)
    children = rig.engine.children()
    # What a process stuck in the kernel would do: keep its descriptor of the image.
    holder = hold_image_of(children["worker-1"], rig.image)
    pids = [rig.engine.pid, *children.values()]
    rig.engine.process.kill()
    rig.engine.process.wait()
    wait_gone(pids)
    successor = EngineProcess(rig.socket_path, rig.options)
    successor.wait_log("waiting for the last process of the engine before this one")
    assert not successor.has_ended()
    holder.kill()
    holder.wait()
    rig.engine = successor.wait_listening()
    rig.reconnect()
    rig.run(50)
    rig.check()


def test_another_engine_leaves_what_a_successor_needs(tmp_path: Path, rig: Rig) -> None:
    rig.run(50)
    children = rig.engine.children()
    holder = hold_image_of(children["worker-1"], rig.image)
    killed = f"{SEGMENT_PREFIX}{rig.engine.pid}"
    rig.engine.process.kill()
    rig.engine.process.wait()
    wait_gone([*children.values()])
    other_image = tmp_path / "other.img"
    other_image.write_bytes(bytes(1 << 20))
    with EngineProcess(tmp_path / "other", [f"--blk-file={other_image}", "--workers=1"]):
        assert shared_names(killed) == [killed]
    successor = EngineProcess(rig.socket_path, rig.options)
    successor.wait_log("waiting for the last process of the engine before this one")
    holder.kill()
    holder.wait()
    rig.engine = successor.wait_listening()
    assert shared_names(killed) == []
    rig.reconnect()
    rig.run(50)
    rig.check()


def image_fd(pid: int, image: Path) -> int:
    """The descriptor of the image in a process."""
    return next(int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir() if os.readlink(fd) == str(image))


def hold_image_of(pid: int, image: Path) -> "subprocess.Popen[bytes]":
    """A process with the very open file description that another has of the image (pidfd_getfd)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_PIDFD_GETFD, os.pidfd_open(pid), image_fd(pid, image), 0)
    if fd < 0:
        pytest.skip("no pidfd_getfd here")
    process = subprocess.Popen(["sleep", "1000"], pass_fds=[fd])
    os.close(fd)
    return process


def test_takeover_under_load(rig: Rig) -> None:
    rig.run(100)
    old = rig.engine
    pids = [old.pid, *old.children().values()]
    rig.engine = EngineProcess(rig.socket_path, [*rig.options, "--takeover"])
    rig.run_until(old.has_ended, "the end of the old engine")
    assert old.wait_end() == 0
    wait_gone(pids)
    rig.run(100)
    rig.check()
    assert "taking over from the engine of process" in rig.engine.log


def test_takeover_where_there_is_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "--takeover", has_crash_points=False)
    rig.run(20)
    rig.check()
    rig.close()


def test_takeover_of_a_socket_without_image(tmp_path: Path) -> None:
    options = ["--backend=memory", "--backend-arg=size_bytes=1048576", "--workers=1"]
    with EngineProcess(tmp_path / "socket", options) as old:
        new = EngineProcess(
            tmp_path / "socket", [*options, "--takeover", "--replace-image"]
        )  # its memory is new
        assert old.wait_end() == 0
        new.wait_listening().end()


def test_sigusr2_ends_between_requests(rig: Rig) -> None:
    rig.run(100)
    old = rig.engine
    pids = [old.pid, *old.children().values()]
    rig.load.submit_all()
    os.kill(old.pid, signal.SIGUSR2)
    assert old.wait_end() == 0
    wait_gone(pids)
    rig.run(100)
    rig.check()
