"""--takeover: whom it ends, and what is refused before anybody is told to end.

A forged segment is one that another user made: the tests make it and give it away, which only root may.
"""

import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.image_hold import ImageHold
from ringblk.engine.drives.image_users import engines_on, is_engine
from ringblk.engine.options.config import make_config
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.program import image_claim, takeover
from ringblk.engine.program.image_claim import claim_image, remove_dead_engines
from ringblk.shm.segments.segment import HEADER_BYTES, MAGIC, remove_orphan
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import LAYOUT_VERSION, SEGMENT_PREFIX, StateSegment
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.file_identity import subject_of
from ringblk.workers.backends.image_lock import lock_image
from tests.rigs.control_client import ControlClient, stop_process
from tests.rigs.engine_rig import DEADLINE_S, NOBODY, PROGRAM, Engine, eventually, run_program

Process: TypeAlias = "subprocess.Popen[bytes]"


@pytest.fixture
def image_fd(image: Path) -> Iterator[int]:
    fd = os.open(image, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def locking_fd(image: Path) -> Iterator[int]:
    """Of somebody who holds the image's lock."""
    fd = os.open(image, os.O_RDWR)
    lock_image(fd, read_only=False)
    yield fd
    os.close(fd)


@pytest.fixture
def dead_name() -> Iterator[str]:
    """The name of a segment whose engine is to be dead: process ids end at 2**22 (proc_sys_kernel(5))."""
    name = f"{SEGMENT_PREFIX}{(1 << 22) + os.getpid()}"
    yield name
    remove_orphan(name)


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("shared")
    image = folder / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with Engine(f"--blk-file={image}", "--workers=1") as engine:
        (engine.folder / "disk.img").symlink_to(image)
        yield engine


@pytest.fixture
def victim() -> Iterator[Process]:
    """A process that is no engine, and ends by SIGUSR2."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def make_segment(name: str, image_fd: int, version: int = LAYOUT_VERSION) -> StateSegment:
    state = StateSegment.create(name, 64, 128)
    state.set_image(*subject_of(os.fstat(image_fd)))
    if version != LAYOUT_VERSION:
        # Where nothing but its header is as this version has it.
        header = struct.pack("<8sI", MAGIC, version) + os.pread(state.fileno(), HEADER_BYTES, 0)[12:]
        os.pwrite(state.fileno(), header.ljust(HEADER_BYTES + 512, b"\xff"), 0)
    return state


def leave_orphan(name: str, image_fd: int, version: int = LAYOUT_VERSION) -> None:
    """What an engine that was killed leaves behind."""
    pid = os.fork()
    if pid == 0:
        try:
            make_segment(name, image_fd, version)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert shared_names(name) == [name]


def hold_of(image: Path) -> ImageHold:
    return ImageHold(DriveConfig(blk_file=str(image)), FileBackend(image))


def refuse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_claim, "DEAD_HOLDER_S", 0.0)
    monkeypatch.setattr(image_claim, "REFUSAL_S", 0.0)


def was_spared(process: "subprocess.Popen[bytes]") -> bool:
    """Whether no signal that ends it had come before this one."""
    process.terminate()
    return process.wait() == -signal.SIGTERM


# Whom it ends.


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a segment away")
def test_a_segment_of_another_user_ends_nobody(
    image: Path, image_fd: int, locking_fd: int, victim: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_at_once(monkeypatch)
    forged = make_segment(f"{SEGMENT_PREFIX}{victim.pid}", image_fd)
    assert is_engine(victim.pid)
    os.fchown(forged.fileno(), NOBODY, -1)
    # An image that is gone may have had this inode, and a killed engine have left its segment.
    assert victim.pid in engines_on(subject_of(os.fstat(image_fd)))
    with pytest.raises(ProgramError, match="in use by another program"):
        claim_image(hold_of(image), takes_over=True)
    assert was_spared(victim)
    forged.close()


def test_who_got_the_process_id_of_a_dead_engine_is_not_ended(
    image: Path, image_fd: int, locking_fd: int, victim: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_at_once(monkeypatch)
    leave_orphan(f"{SEGMENT_PREFIX}{victim.pid}", image_fd)
    with pytest.raises(ProgramError, match="in use by another program"):
        claim_image(hold_of(image), takes_over=True)
    assert was_spared(victim)


def test_a_name_without_a_process_id_is_passed_over(image_fd: int) -> None:
    subject = subject_of(os.fstat(image_fd))
    left = set(engines_on(subject))  # by killed engines, whose image had this inode
    for word in ("abc", "", "1x", "\u0661"):
        state = make_segment(f"{SEGMENT_PREFIX}{word}", image_fd)
        assert set(engines_on(subject)) <= left
        state.close()


def test_an_engine_that_does_not_end_is_named(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--workers=1") as old:
        stop_process(old.process.pid)
        log_path = image.with_suffix(".log")
        with (
            log_path.open("wb") as log,
            subprocess.Popen(
                [PROGRAM, f"--socket-path={old.socket_path}", f"--blk-file={image}", "--takeover"], stderr=log
            ) as new,
        ):
            told = f"process {old.process.pid} has been told to end and has not yet; waiting for it"
            eventually(lambda: told in log_path.read_text(), "a line about the one that does not end")
            new.kill()


# What stays of a dead engine.


def test_a_dead_engine_stays_known_while_its_image_is_locked(
    image: Path, image_fd: int, locking_fd: int, dead_name: str
) -> None:
    leave_orphan(dead_name, image_fd)
    assert dead_name not in remove_dead_engines((0, 0))
    assert shared_names(dead_name) == [dead_name]
    assert dead_name in remove_dead_engines(
        subject_of(os.fstat(image_fd))
    )  # now the lock is the remover's own
    assert shared_names(dead_name) == []


def test_a_dead_engine_whose_image_is_free_is_forgotten(image_fd: int, dead_name: str) -> None:
    leave_orphan(dead_name, image_fd)
    assert dead_name in remove_dead_engines((0, 0))


def test_a_dead_engine_whose_image_another_serves_is_forgotten(
    image_fd: int, locking_fd: int, dead_name: str
) -> None:
    leave_orphan(dead_name, image_fd)
    living = make_segment(f"{SEGMENT_PREFIX}{os.getpid()}", image_fd)
    assert dead_name in remove_dead_engines((0, 0))
    living.close()


@pytest.mark.parametrize("version", [LAYOUT_VERSION + 1, 4], ids=["later", "earlier, without a subject"])
def test_a_dead_engine_of_another_version_stays_known_while_its_image_is_locked(
    image_fd: int, locking_fd: int, dead_name: str, version: int
) -> None:
    leave_orphan(dead_name, image_fd, version)
    assert dead_name not in remove_dead_engines((0, 0))
    assert shared_names(dead_name) == [dead_name]
    dead_pid = int(dead_name.removeprefix(SEGMENT_PREFIX))
    assert (dead_pid in engines_on(subject_of(os.fstat(image_fd)))) == (version > LAYOUT_VERSION)
    remove_orphan(dead_name)


def test_a_dead_engine_of_another_version_whose_image_is_free_is_forgotten(
    image_fd: int, dead_name: str
) -> None:
    leave_orphan(dead_name, image_fd, LAYOUT_VERSION + 1)
    remove_dead_engines((0, 0))
    assert shared_names(dead_name) == []


def test_a_living_engine_of_another_version_is_known_by_its_image(image_fd: int) -> None:
    living = make_segment(f"{SEGMENT_PREFIX}{os.getpid()}", image_fd, LAYOUT_VERSION + 1)
    assert os.getpid() in engines_on(subject_of(os.fstat(image_fd)))
    living.close()


# What is refused first.


@pytest.mark.parametrize(
    ("option", "status", "named"),
    [
        ("--control=/nonexistent/x.sock", 1, "--control /nonexistent/x.sock: No such file or directory"),
        ("--control=" + "x" * 108, 1, "longer than 107 bytes"),
        ("--control=/proc/x.sock", 1, "--control /proc/x.sock: "),
        ("--control=/tmp", 1, "a folder is in the way"),
        ("--rate-group=bad/name", 2, "--rate-group 'bad/name': a name is"),
        ("--user=no-such-user", 1, "--user no-such-user"),
    ],
)
def test_what_can_be_refused_leaves_the_other_engine_alone(
    shared_engine: Engine, option: str, status: int, named: str
) -> None:
    image = shared_engine.folder / "disk.img"
    options = [f"--socket-path={shared_engine.socket_path}", f"--blk-file={image}", "--takeover"]
    done = run_program(*options, option)
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1), done.stderr
    assert named in done.stderr
    shared_engine.say_hello()


@pytest.mark.parametrize("option", ["--socket-path", "--control"])
def test_a_socket_of_a_third_program_is_no_reason_to_end_an_engine(
    shared_engine: Engine, tmp_path: Path, option: str
) -> None:
    image = shared_engine.folder / "disk.img"
    sockets = {"--socket-path": shared_engine.socket_path, option: tmp_path / "taken"}
    with socket.socket(socket.AF_UNIX) as third:
        third.bind(str(tmp_path / "taken"))
        third.listen()
        done = run_program(
            f"--blk-file={image}", "--takeover", *(f"{name}={path}" for name, path in sockets.items())
        )
    told = f"{option} {tmp_path / 'taken'}: in use by process {os.getpid()}, which is not to end"
    assert (done.returncode, done.stderr) == (1, f"vhost-user-ringblk: {told}\n")
    shared_engine.say_hello()


def test_the_control_socket_goes_over_with_the_rest(image: Path, tmp_path: Path) -> None:
    control = ControlClient(tmp_path / "control")
    options = [f"--blk-file={image}", "--workers=1", f"--control={control.socket_path}", "--takeover"]
    with Engine(*options) as old, Engine(*options) as new:
        assert old.process.wait(DEADLINE_S) == 0
        assert control.get()["processes"]["supervisor"] == new.process.pid
        assert new.process.poll() is None


def test_a_package_that_is_missing_is_said_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(takeover, "CONTROL_PACKAGES", ("no_such_package",))
    config = make_config(
        {
            "socket_path": str(tmp_path / "s"),
            "blk_file": "x",
            "control": str(tmp_path / "c"),
            "takeover": True,
        }
    )
    with pytest.raises(ProgramError, match="it needs the package h11"):
        takeover.check_takeover(config, [])
