"""A backend opens what a process needs before the fork, and says when a dead one is fenced."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.rigs.engine_rig import DEADLINE_S, Engine, EngineWithWorkers, eventually, raw_frontend, run_program
from tests.rigs.inline_device import IN, OK

SIZE_BYTES = 1 << 20


@pytest.mark.parametrize(("io_engine", "name"), [("psync", "worker 0"), ("sync", "dispatcher")])
def test_nobody_takes_the_place_of_one_that_is_not_fenced(tmp_path: Path, io_engine: str, name: str) -> None:
    options = [f"--backend-arg=size_bytes={SIZE_BYTES}", f"--backend-arg=folder={tmp_path}", "--workers=1"]
    with EngineWithWorkers(
        "--backend=fenced_disk:FencedDisk", *options, f"--io-engine={io_engine}"
    ) as engine:
        notes = tmp_path / f"of {name}"
        eventually(notes.exists, "a file that was opened before the fork")
        eventually(lambda: notes.read_text() == "started\n", "a note by the process that has it")
        with raw_frontend(engine) as frontend:
            queue = frontend.queues[0]
            assert queue.request(IN, read_bytes=512)[0] == OK
            victim = pid_of(engine, name)
            os.kill(victim, signal.SIGKILL)
            eventually((tmp_path / f"asked {name}").exists, "the question whether it is fenced")
            queue.driver.forget_places()
            queue.offer(IN, read_bytes=512)
            time.sleep(0.05)  # in which another would have done it
            assert (queue.driver.used(), notes.read_text()) == ([], "started\n")
            (tmp_path / "fenced").touch()
            queue.wait_used(1)
            assert notes.read_text() == "started\n" * 2


@pytest.mark.parametrize(("io_engine", "name"), [("psync", "worker 0"), ("sync", "dispatcher")])
def test_an_engine_ends_where_nobody_can_tell(tmp_path: Path, io_engine: str, name: str) -> None:
    """Else its front end would wait for ever; it goes on with the next engine."""
    options = [f"--backend-arg=size_bytes={SIZE_BYTES}", f"--backend-arg=folder={tmp_path}", "--workers=1"]
    with EngineWithWorkers(
        "--backend=fenced_disk:FencedDisk", *options, f"--io-engine={io_engine}"
    ) as engine:
        eventually((tmp_path / f"of {name}").exists, "a file that was opened before the fork")
        (tmp_path / "failing").touch()
        os.kill(pid_of(engine, name), signal.SIGKILL)
        assert engine.process.wait(DEADLINE_S) == 1
        assert "nobody can tell" in engine.log()


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """Be it that the backend cannot prepare for a process."""
    (tmp_path / "of dispatcher").mkdir()
    socket_path = tmp_path / "socket"
    done = run_program(
        f"--socket-path={socket_path}",
        "--backend=fenced_disk:FencedDisk",
        f"--backend-arg=size_bytes={SIZE_BYTES}",
        f"--backend-arg=folder={tmp_path}",
        "--io-engine=psync",
    )
    assert (done.returncode, "Is a directory" in done.stderr) == (1, True)
    assert not socket_path.exists()


def pid_of(engine: Engine, name: str) -> int:
    comm = {"dispatcher": "rb-dispatcher"}.get(name, f"rb-{name.replace(' ', '-')}")
    return next(pid for pid in engine.children() if Path(f"/proc/{pid}/comm").read_text().strip() == comm)
