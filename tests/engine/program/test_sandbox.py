"""The sandbox from inside and from outside: what a child can reach, and that it is in it from birth to death.

The kernels that lack a part of it are made by a filter in front of the program, which answers that part's
system call as a kernel without it does.
"""

import json
import os
import signal
from pathlib import Path

import pytest

from ringblk import Frontend
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_rig import (
    MEMORY,
    MEMORY_BYTES,
    NOBODY,
    EngineWithWorkers,
    eventually,
    raw_frontend,
    run_program,
)
from tests.rigs.inline_device import IN, IOERR, OK, OUT
from tests.rigs.lacking_kernel import a_kernel_without

REFUSED = "PermissionError"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def probing(tmp_path: Path) -> list[str]:
    """The options of an engine on a disk that tries its sandbox."""
    (tmp_path / "other").write_text("other")
    (tmp_path / "allowed").mkdir()
    return [
        "--backend=probing_disk:ProbingDisk",
        f"--backend-arg=size_bytes={MEMORY_BYTES}",
        f"--backend-arg=folder={tmp_path}",
        f"--sandbox-allow={tmp_path / 'allowed'}",
        "--workers=2",
    ]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that only its owner may open."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MEMORY_BYTES))
    path.chmod(0o600)
    return path


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def is_confined(pid: int) -> bool:
    """Whether a child has gone into its sandbox."""
    status = status_of(pid)
    capabilities = [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
    return status["Seccomp"] == "2" and status["NoNewPrivs"] == "1" and not any(capabilities)


# What a child can reach.


def test_a_worker_reaches_what_was_opened_before_and_what_is_allowed(probing: list[str]) -> None:
    with EngineWithWorkers(*probing) as engine, raw_frontend(engine) as frontend:
        status, data = frontend.queues[0].request(IN, read_bytes=4096)
    assert status == OK
    assert json.loads(data) == {
        "try_inherited": "other",
        "try_opened_at_start": "other",
        "try_allowed": "written",
        "try_other": REFUSED,
        "try_thread": REFUSED,  # a thread runs, and is no freer
        "try_folder": REFUSED,
        "try_leaving_the_allowed": REFUSED,
        "try_memory_of_the_supervisor": REFUSED,
        "try_unix_socket": REFUSED,
        "try_network": REFUSED,
        "try_exec": REFUSED,
        "try_fork": REFUSED,
        "try_ptrace": REFUSED,
        "try_signal": REFUSED,
        "try_becoming_root": REFUSED,
    }


def test_without_the_sandbox_a_worker_reaches_everything(probing: list[str]) -> None:
    options = [option for option in probing if not option.startswith("--sandbox-allow")]
    with EngineWithWorkers(*options, "--sandbox=off") as engine, raw_frontend(engine) as frontend:
        queue = frontend.queues[0]
        assert queue.request(OUT, data=b"x" * 512)[0] == OK
        assert {status_of(pid)["Seccomp"] for pid in engine.children()} == {"0"}


def test_a_refused_system_call_is_an_error_and_named_once(probing: list[str]) -> None:
    with EngineWithWorkers(*probing, "--workers=1") as engine, raw_frontend(engine) as frontend:
        for _ in range(3):
            assert frontend.queues[0].request(OUT, data=b"x" * 512)[0] == IOERR
        assert engine.end() == 0
        assert engine.log().count("worker 0: the sandbox refuses socket (system call") == 1


def test_a_worker_that_has_threads_already_does_not_serve(probing: list[str]) -> None:
    probing[0] = "--backend=probing_disk:ThreadedDisk"
    with EngineWithWorkers(*probing) as engine:
        assert engine.process.wait(30) == 1
        assert "start_worker has started threads" in engine.log()


# That every child is in it.


@pytest.mark.parametrize("io_engine", ["psync", "sync", "io_uring"])
def test_every_child_is_confined_and_so_is_its_successor(io_engine: str, image: Path) -> None:
    options = [f"--blk-file={image}", f"--io-engine={io_engine}", "--workers=2"]
    with EngineWithWorkers(*options) as engine, raw_frontend(engine):  # one told of no guest has not begun
        first = engine.children()
        assert len(first) == (1 if io_engine == "sync" else 3)
        eventually(lambda: all(map(is_confined, first)), "all confined")
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(engine.children() - first) == len(first), "successors")
        eventually(lambda: all(map(is_confined, engine.children())), "all confined again")
        supervisor = status_of(engine.process.pid)
        assert int(supervisor["CapEff"], 16) == 0
        assert supervisor["NoNewPrivs"] == "1"


@pytest.mark.parametrize(
    ("io_engine", "backend"),
    [
        (io_engine, backend)
        for io_engine in ("psync", "sync", "io_uring")
        for backend in ("file", "memory", "null", "ram_disk:RamDisk")
        if io_engine != "io_uring" or backend == "file"
    ],
)
def test_every_request_is_served_within_it(io_engine: str, backend: str, image: Path) -> None:
    where = [f"--blk-file={image}"]
    if backend != "file":
        where = [f"--backend={backend}", f"--backend-arg=size_bytes={MEMORY_BYTES}"]
    with (
        EngineWithWorkers(*where, "--sandbox=on", f"--io-engine={io_engine}", "--workers=2") as engine,
        Frontend(str(engine.socket_path)) as disk,
    ):
        keeps = backend != "null"
        disk.write(0, b"a" * 65536)
        disk.write(4096 + 512, b"b" * 1536)  # no whole blocks
        disk.flush()
        assert disk.read(4096, 4096) == (b"a" * 512 + b"b" * 1536 + b"a" * 2048 if keeps else bytes(4096))
        disk.discard(8192, 8192)
        disk.write_zeroes(16384, 8192)
        assert disk.read(16384, 8192) == bytes(8192)
        disk.set_write_cache(False)
        disk.write(32768, b"c" * 4096)  # written through
        assert engine.end() == 0
        assert "refuses" not in engine.log()
        assert "ERROR" not in engine.log()


# Kernels that lack a part of it.


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["landlock_create_ruleset"], "Landlock"),
        (["seccomp"], "seccomp filters"),
        (["landlock_create_ruleset", "seccomp"], "seccomp filters"),
    ],
)
def test_a_kernel_that_lacks_a_part(names: list[str], missing: str, tmp_path: Path) -> None:
    lacking = a_kernel_without(*names)
    done = run_program(f"--socket-path={tmp_path / 's'}", *MEMORY, "--sandbox=on", prepare=lacking)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "--sandbox on: this kernel has no" in done.stderr
    assert missing in done.stderr
    with EngineWithWorkers(*MEMORY, prepare=lacking) as engine, Frontend(str(engine.socket_path)) as disk:
        disk.write(0, b"a" * 4096)
        assert disk.read(0, 4096) == b"a" * 4096
        (line,) = (line for line in engine.log().splitlines() if "sandbox: " in line)
        assert missing in line
        assert "going on without" in line
    with EngineWithWorkers(*MEMORY, "--sandbox=off", prepare=lacking) as engine:
        assert "sandbox: " not in engine.log()


# Another user.


@needs_root
@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_everything_runs_as_the_user(sandbox: str, image: Path) -> None:
    with EngineWithWorkers(
        f"--blk-file={image}", "--user=nobody", f"--sandbox={sandbox}", "--workers=2", owner=NOBODY
    ) as engine:
        first = engine.children()
        pids = {engine.process.pid, *first}
        ids = {f"{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}"}
        eventually(lambda: {status_of(pid)["Uid"] for pid in pids} == ids, "all are nobody")
        assert {status_of(pid)["Gid"] for pid in pids} == ids
        assert {status_of(pid)["Groups"] for pid in pids} == {str(NOBODY)}
        assert engine.socket_path.stat().st_uid == NOBODY
        os.kill(min(first), signal.SIGKILL)
        eventually(lambda: len(engine.children() - first) == 1, "a successor")
        with Frontend(str(engine.socket_path)) as disk:
            disk.write(0, b"a" * 4096)
            disk.flush()
            assert image.read_bytes()[:4096] == b"a" * 4096
        other = run_program(f"--socket-path={engine.folder / 'other'}", f"--blk-file={image}")
        assert "in use by another engine" in other.stderr
        children = engine.children()
        assert engine.end() == 0
        engine.assert_nothing_left(children)


@needs_root
def test_children_end_with_a_supervisor_that_changed_its_user() -> None:
    with EngineWithWorkers(*MEMORY, "--user=nobody:daemon") as engine, raw_frontend(engine):
        children = engine.children()
        eventually(lambda: all(map(is_confined, children)), "all confined")
        assert status_of(engine.process.pid)["Gid"].split()[0] == "1"
        engine.end(signal.SIGKILL)
        eventually(lambda: not any(Path(f"/proc/{pid}/root").exists() for pid in children), "their end")


@needs_root
def test_the_control_api_serves_another_user(image: Path) -> None:
    pytest.importorskip("h11")
    control = image.with_name("control")
    options = [f"--blk-file={image}", f"--control={control}", "--rate-group=nobodys", "--iops=1000"]
    with EngineWithWorkers(*options, "--user=nobody", "--workers=1", owner=NOBODY) as engine:
        client = ControlClient(control)
        processes = client.change("/workers", count=2)["processes"]
        assert status_of(processes["worker 1"])["Uid"].split()[0] == str(NOBODY)
        assert control.stat().st_uid == NOBODY
        assert engine.end() == 0
    assert not Path("/dev/shm/ringblk-rate-nobodys").exists()


# Options that cannot be honoured.


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ([*MEMORY, "--user=no-such-user"], 1, "--user no-such-user: there is no user"),
        ([*MEMORY, "--user=nobody:no-such-group"], 1, "there is no group 'no-such-group'"),
        ([*MEMORY, "--sandbox-allow=/tmp"], 2, "--sandbox-allow: only for"),
        (["--sandbox=off", "--sandbox-allow=/tmp"], 2, "--sandbox-allow needs a sandbox"),
        (["--sandbox-allow=/nowhere/at/all"], 1, "--sandbox-allow /nowhere/at/all: No such file"),
    ],
)
def test_options_that_cannot_be_had(options: list[str], status: int, words: str, tmp_path: Path) -> None:
    if os.geteuid() != 0 and "--user" in words:
        pytest.skip("says first that only root can")
    if options[0] not in MEMORY:
        options = ["--backend=ram_disk:RamDisk", f"--backend-arg=size_bytes={MEMORY_BYTES}", *options]
    done = run_program(f"--socket-path={tmp_path / 's'}", *options)
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1)
    assert words in done.stderr
