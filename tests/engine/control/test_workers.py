"""PATCH /workers where the host has no more of something: said clearly, and asked again it works."""

import contextlib
import http.client
import json
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.control_client import TIMEOUT_S, ControlClient, ControlledEngine
from tests.rigs.engine_rig import eventually

OPEN_FILES = 400  # more than six workers can need
MANY_FILES = (
    "bash", "-c", 'for fd in $(seq 50 389); do eval "exec $fd</dev/null" || break; done; exec "$@"', "bash",
)  # fmt: skip
"""A launcher that has all but some of them open, and so its engine has."""
WORKER_FDS = 3  # eventfd, pidfd and channel, with --io-engine=psync


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


def connected_to(control: ControlClient) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(TIMEOUT_S)
    connected.connect(str(control.socket_path))
    return connected


@contextlib.contextmanager
def filled(engine: ControlledEngine, spare_count: int) -> Iterator[http.client.HTTPConnection]:
    """Fill the supervisor's descriptors but for so many with connections; gives one of them."""
    folder = f"/proc/{supervisor_pid(engine)}/fd"
    asking = http.client.HTTPConnection("localhost")
    with contextlib.ExitStack() as connections:
        while (open_count := len(os.listdir(folder))) < OPEN_FILES - spare_count:
            asking.sock = connections.enter_context(connected_to(engine.control))
            eventually(lambda: len(os.listdir(folder)) > open_count, "a connection")
        yield asking


def ask_for_workers(asking: http.client.HTTPConnection, count: int) -> tuple[int, Any]:
    asking.request("PATCH", "/workers", json.dumps({"count": count}))
    answer = asking.getresponse()
    return answer.status, json.loads(answer.read())


def test_a_host_that_starts_no_more_workers(tmp_path: Path) -> None:
    """EMFILE in the middle: the answer says so, what was started serves, and the next change is made."""
    engine = ControlledEngine(tmp_path, "--workers=2", "--io-engine=psync", launcher=MANY_FILES)
    limit_open_files(engine, OPEN_FILES, OPEN_FILES)
    with filled(engine, 2 * WORKER_FDS + 1) as asking:
        status, answer = ask_for_workers(asking, 6)
        assert status == 503
        assert answer == {
            "error": "count: only 4 of 6 workers could be started: Too many open files",
            "field": "count",
        }
        status, answer = ask_for_workers(asking, 6)
        assert status == 503
    control = engine.control
    eventually(lambda: worker_count(control) == 4, "descriptors to ask with")
    for count in (6, 2, 3):
        control.change("/workers", count=count)
        assert worker_count(control) == count
    tokens = [engine.submit_write(index * 4096) for index in range(64)]
    assert engine.finish(*tokens) == [0] * 64
    engine.close()


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
