"""PATCH /workers and the descriptors that workers need."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.control_client import ControlClient, ControlledEngine

OPEN_FILES = 400  # more than six workers can need
MANY_FILES = (
    "bash", "-c", 'for fd in $(seq 50 389); do eval "exec $fd</dev/null" || break; done; exec "$@"', "bash",
)  # fmt: skip
"""A launcher that has all but some of them open, and so its engine has."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ControlledEngine]:
    engine = ControlledEngine(tmp_path, "--workers=2", "--io-engine=psync")
    yield engine
    engine.close()


def supervisor_pid(engine: ControlledEngine) -> int:
    """Without a question, which takes a descriptor."""
    pid = engine.frontend.backend_pid
    assert pid is not None
    return pid


def limit_open_files(engine: ControlledEngine, soft: int, hard: int) -> None:
    resource.prlimit(supervisor_pid(engine), resource.RLIMIT_NOFILE, (soft, hard))


def worker_count(control: ControlClient) -> int:
    """How many there are; each of them lives."""
    pids = [pid for role, pid in control.processes.items() if role.startswith("worker")]
    for pid in pids:
        os.kill(pid, 0)
    return len(pids)


def test_more_workers_than_files_may_be_open_for(engine: ControlledEngine) -> None:
    """Refused before anything is changed: a front end is never left without descriptors."""
    control = engine.control
    limit_open_files(engine, OPEN_FILES, OPEN_FILES)
    status, answer = control.ask("PATCH", "/workers", {"count": 64})
    assert (status, answer["field"]) == (400, "count")
    assert f"count: only {OPEN_FILES} files may be open, 64 workers and 1 queues can need " in answer["error"]
    assert worker_count(control) == 2
    control.change("/workers", count=3)


def test_the_soft_limit_grows_with_the_workers(engine: ControlledEngine) -> None:
    limit_open_files(engine, 64, 2 * OPEN_FILES)
    engine.control.change("/workers", count=40)
    assert worker_count(engine.control) == 40
    assert resource.prlimit(supervisor_pid(engine), resource.RLIMIT_NOFILE)[0] > 64
