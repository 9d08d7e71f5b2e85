"""The folder of all segments is everybody's: what others put there, or take away, costs an engine nothing."""

import contextlib
import fcntl
import json
import os
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.devices.kinds import DEFAULT_KIND, kind_named
from ringblk.engine.drives.image_users import engines_on, is_engine
from ringblk.engine.drives.segments import all_segments, create_segment, segments_of
from ringblk.engine.program.image_claim import remove_dead_engines
from ringblk.shm.platform.process_table import is_running, user_ids
from ringblk.shm.rates.group import RateGroup, RateGroupError
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import SEGMENT_PREFIX, StateSegment
from ringblk.workers.backends.file_identity import subject_of
from tests.rigs.child_process import ends_with_tests
from tests.rigs.engine_rig import DEADLINE_S, NOBODY, PROGRAM, Engine, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users as well")

FOLDER = Path("/dev/shm")
LEASE_BREAK_S = float(Path("/proc/sys/fs/lease-break-time").read_text())
RINGBLK = str(Path(sys.executable).with_name("ringblk"))
DEAD_PID = (1 << 22) + os.getpid()  # process ids end at 2**22 (proc_sys_kernel(5))

# What another user runs: it does something to a file that it owns, says so, and goes on until its input ends.
HEAD = """
import fcntl, os, signal, sys, threading
path = sys.argv[1]
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
signal.signal(signal.SIGIO, signal.SIG_IGN)  # so a lease that is to be broken is told
def ready():
    os.fchmod(fd, 0o666)
    print("ready", flush=True)
"""
TAIL = "\nready()\nsys.stdin.read()\n"
LEASE = "fd = os.open(path, os.O_CREAT | os.O_RDWR)\nfcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)"
HOLD = "fd = os.open(path, os.O_CREAT | os.O_RDWR)\nfcntl.flock(fd, fcntl.LOCK_EX)"
CUT_OFF = """
content = open(sys.argv[2], "rb").read()
fd = os.open(path, os.O_CREAT | os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
def cut_off():
    while True:
        os.pwrite(fd, content, 0)
        os.ftruncate(fd, 4096)
        os.pwrite(fd, content, 0)
        os.ftruncate(fd, 0)
threading.Thread(target=cut_off, daemon=True).start()
"""


@contextlib.contextmanager
def another_user(does: str, path: Path, *arguments: str) -> Iterator[int]:
    """Another user's program that does this to the file at `path`; its process id."""
    with subprocess.Popen(
        [sys._base_executable, "-I", "-c", HEAD + does + TAIL, str(path), *arguments],  # type: ignore[attr-defined]
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()
            path.unlink(missing_ok=True)


@pytest.fixture
def group() -> Iterator[Path]:
    """Where the segment of a group of that name would be."""
    path = FOLDER / f"ringblk-rate-test-{uuid.uuid4().hex}"
    yield path
    path.unlink(missing_ok=True)


def join(group: Path) -> RateGroup:
    return RateGroup(group.name.removeprefix("ringblk-rate-"), RateLimitSettings(), time.monotonic_ns())


def stat_engines(*arguments: str) -> list[dict[str, object]]:
    result = subprocess.run(
        [RINGBLK, "stat", "--json", *arguments], check=True, capture_output=True, timeout=DEADLINE_S
    )
    engines: list[dict[str, object]] = json.loads(result.stdout)
    return engines


def test_a_lease_on_a_file_named_like_a_segment_keeps_nobody_waiting(image: Path) -> None:
    path = FOLDER / f"{SEGMENT_PREFIX}{DEAD_PID}"
    with another_user(LEASE, path):
        began_s = time.monotonic()
        with Engine(f"--blk-file={image}", "--workers=1") as engine:
            pids = [found["supervisor_pid"] for found in stat_engines()]
            assert engine.process.pid in pids
            assert engine.end() == 0
        assert time.monotonic() - began_s < LEASE_BREAK_S


def test_a_lease_on_a_group_is_an_error_at_once(group: Path) -> None:
    with another_user(LEASE, group):
        began_s = time.monotonic()
        with pytest.raises(RateGroupError):
            join(group)
        assert time.monotonic() - began_s < LEASE_BREAK_S


@pytest.mark.parametrize(
    "kind", ["pipe", "folder", "link", "link to nothing", "no text", "long name", "empty"]
)
def test_what_is_no_segment_is_passed_over(image: Path, kind: str) -> None:
    path = FOLDER / f"{SEGMENT_PREFIX}{DEAD_PID}"
    if kind == "no text":
        path = Path(os.fsdecode(os.fsencode(path) + b"\xff\x1b"))
    elif kind == "long name":
        path = Path(f"{path}{'9' * (255 - len(path.name))}")
    try:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind.startswith("link"):
            path.symlink_to(image if kind == "link" else "/nonexistent")
        else:
            path.touch()
        with Engine(f"--blk-file={image}", "--workers=1") as engine:
            assert engine.process.pid in [found["supervisor_pid"] for found in stat_engines()]
            assert "Traceback" not in engine.log()
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_a_group_that_is_no_segment_is_an_error(group: Path, image: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(group)
    elif kind == "folder":
        group.mkdir()
    else:
        group.symlink_to(image)
    with pytest.raises(RateGroupError):
        join(group)
    assert image.stat().st_size == 1 << 20
    if kind == "folder":
        group.rmdir()


def test_a_group_of_another_user_is_not_joined(group: Path) -> None:
    join(group)  # a whole one, whose owner changes
    os.chown(group, NOBODY, -1)
    with pytest.raises(RateGroupError, match=f"belongs to another user \\({NOBODY}\\)"):
        join(group)
    RateGroup(
        group.name.removeprefix("ringblk-rate-"), RateLimitSettings(), time.monotonic_ns(), [NOBODY]
    ).leave()


def test_a_group_with_another_name_is_not_emptied(group: Path, image: Path) -> None:
    other = FOLDER / f"ringblk-test-{uuid.uuid4().hex}"
    other.write_bytes(b"something")
    try:
        os.link(other, group)
        with pytest.raises(RateGroupError, match="other names"):
            join(group)
        assert other.read_bytes() == b"something"
    finally:
        other.unlink()


def test_a_segment_that_is_cut_off_in_a_loop_ends_nobody(image: Path, everybodys_path: Path) -> None:
    with Engine(f"--blk-file={image}", "--workers=1") as engine:
        content = everybodys_path / "content"
        content.write_bytes((FOLDER / engine.segment_name).read_bytes())
        content.chmod(0o644)
        path = FOLDER / f"{SEGMENT_PREFIX}{DEAD_PID}"
        with another_user(CUT_OFF, path, str(content)) as pid:
            path.rename(FOLDER / f"{SEGMENT_PREFIX}{pid}")  # of a process that can have made it
            try:
                for _ in range(300):
                    engines_on(subject_of(image.stat()))
                    remove_dead_engines((0, 0))
                for _ in range(5):
                    assert engine.process.pid in [found["supervisor_pid"] for found in stat_engines()]
            finally:
                (FOLDER / f"{SEGMENT_PREFIX}{pid}").unlink()


def take_own_name() -> None:
    """In a process that is to be an engine: its segment's name is another user's, and held."""
    fd = os.open(FOLDER / f"{SEGMENT_PREFIX}{os.getpid()}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    os.fchown(fd, NOBODY, NOBODY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.dup2(fd, 0)  # which goes on into the program, and its lock with it


def test_an_engine_takes_another_name_where_its_own_is_taken(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--workers=1", prepare=take_own_name) as engine:
        (own,) = set(shared_names(engine.segment_name)) - {engine.segment_name}
        assert stat.S_IMODE((FOLDER / own).stat().st_mode) == 0o600
        assert [found["name"] for found in stat_engines(str(engine.process.pid))] == [own]
        assert is_engine(engine.process.pid)
        with subprocess.Popen(
            [PROGRAM, f"--socket-path={engine.socket_path}", f"--blk-file={image}", "--takeover"]
        ) as successor:
            assert engine.process.wait(DEADLINE_S) == 0
            eventually(lambda: segments_of(successor.pid), "the successor's segment")
            successor.terminate()
            assert successor.wait(DEADLINE_S) == 0
        assert not (FOLDER / own).exists()
        (FOLDER / engine.segment_name).unlink(missing_ok=True)  # any engine may have cleared it away


def test_own_segments_have_names_that_nobody_can_guess_where_the_first_is_taken() -> None:
    first, second = (create_segment("", 64, 128, kind_named(DEFAULT_KIND)) for _ in range(2))
    try:
        assert first.name == f"{SEGMENT_PREFIX}{os.getpid()}"
        assert second.name.removeprefix(f"{first.name}-").isalnum()
        assert {segment.name for segment in segments_of(os.getpid())} == {first.name, second.name}
    finally:
        second.close()
        first.close()


def leave_orphan(name: str, subject: tuple[int, int]) -> None:
    """What a killed engine of an image leaves."""
    pid = os.fork()
    if pid == 0:
        try:
            StateSegment.create(name, 64, 128).set_image(*subject)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_an_engine_whose_segment_lost_its_name_is_found_and_taken_over(image: Path) -> None:
    """Also where a killed one has left a segment of the same image."""
    with Engine(f"--blk-file={image}", "--workers=1") as engine:
        (FOLDER / engine.segment_name).unlink(
            missing_ok=True
        )  # another engine may have taken it for a dead one's
        assert [found["supervisor_pid"] for found in stat_engines(str(engine.process.pid))] == [
            engine.process.pid
        ]
        subject = subject_of(image.stat())
        leave_orphan(f"{SEGMENT_PREFIX}{DEAD_PID}", subject)
        assert engine.process.pid in engines_on(subject)
        other_socket = engine.folder / "other"  # found by its image, not by its socket
        with subprocess.Popen(
            [PROGRAM, f"--socket-path={other_socket}", f"--blk-file={image}", "--takeover"]
        ) as successor:
            assert engine.process.wait(DEADLINE_S) == 0
            eventually(other_socket.exists, "the successor listens")
            (FOLDER / f"{SEGMENT_PREFIX}{successor.pid}").unlink()
            with Engine(f"--blk-file={image}", "--takeover", "--workers=1") as third:
                assert successor.wait(DEADLINE_S) == 0
                assert third.end() == 0


def test_a_segment_without_a_name_is_looked_at_once() -> None:
    state = create_segment("", 64, 128, kind_named(DEFAULT_KIND))
    (FOLDER / state.name).unlink()
    found = [segment for segment in all_segments() if segment.pid == os.getpid()]
    assert [segment.name for segment in found] == [state.name]
    copy = found[0].copy()
    assert isinstance(copy, StateSegment)
    copy.close()
    state.close()


def test_a_process_may_have_any_name() -> None:
    """Whoever lists engines, or begins one, looks at the process that a segment names."""
    name_it = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'\\xff'); print(flush=True); time.sleep(60)"
    with subprocess.Popen(
        ends_with_tests([sys.executable, "-c", name_it]), stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            assert user_ids(process.pid) == {os.getuid()}
            assert is_running(process.pid)
        finally:
            process.kill()
    assert not is_running(process.pid)


STRANGER = 100_000 + os.getpid()
"""A user who has no engines: no other test runs any as this one."""


def ringblk_as_another_user(*arguments: str) -> "subprocess.CompletedProcess[str]":
    code = (  # imported before: this user may not read where Python is
        "import os, sys; from ringblk.engine.program import cli\n"
        "from ringblk.engine.images import command\n"
        "from ringblk.engine.statistics import commands, stat_command, top_command, top_view\n"
        f"sys.argv[0] = 'ringblk'; os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER}); cli.main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_another_user_is_told_of_engines_that_may_not_be_looked_at(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--workers=1") as engine:
        result = ringblk_as_another_user("stat")
        assert result.returncode == 1
        assert result.stdout == ""
        assert "engines of other users run here (root" in result.stderr
        result = ringblk_as_another_user("stat", str(engine.process.pid))
        assert result.returncode == 1
        assert f"engine {engine.process.pid} is another user's (root)" in result.stderr
        result = ringblk_as_another_user("top", "--frames=1")
        assert result.returncode == 1
        assert "ringblk: engines of other users run here (root" in result.stderr
        (FOLDER / engine.segment_name).chmod(0o644)  # as good as without: it is not read
        assert ringblk_as_another_user("stat").returncode == 1
