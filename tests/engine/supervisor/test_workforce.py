"""Workers come when there is work, up to a limit, and go when there is none."""

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.engine.statistics.statistics import StatisticsSnapshot, take_snapshot
from ringblk.shm.state.segment import StateSegment
from tests.rigs import hasty_workers
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_rig import MEMORY, Engine, Gate, RawFrontend, eventually, raw_frontend
from tests.rigs.inline_device import IN, OK, OUT
from tests.rigs.process_tree import has_ended

PSYNC = (*MEMORY, "--io-engine=psync")


def snapshot(engine: Engine) -> StatisticsSnapshot:
    state = StateSegment.attach(engine.segment_name)
    try:
        return take_snapshot(state)
    finally:
        state.close()


def workers_of(engine: Engine) -> list[int]:
    return [worker.pid for worker in snapshot(engine).workers if worker.pid]


def offer_reads(frontend: RawFrontend, count: int) -> None:
    for place in range(count):
        frontend.queues[0].offer(IN, read_bytes=512, head=2 * place)


def test_a_drive_at_rest_is_one_process_with_a_guest_and_without() -> None:
    with Engine(*PSYNC, program=hasty_workers.PROGRAM) as engine:
        assert len(engine.children()) == 1
        with raw_frontend(engine) as frontend:
            queue = frontend.queues[0]
            assert len(engine.children()) == 1
            for number in range(20):
                assert queue.request(OUT, number, data=bytes([number]) * 512)[0] == OK
                eventually(lambda: len(engine.children()) == 1, "the worker's end")
            for number in range(20):
                assert queue.request(IN, number, read_bytes=512) == (OK, bytes([number]) * 512)
        found = snapshot(engine)
        assert sum(worker.request_count for worker in found.workers) == 40
        assert sum(worker.restart_count for worker in found.workers) == 0
        assert "ERROR" not in engine.log()


def test_as_many_come_as_have_something_to_do_up_to_the_limit(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with Engine(*gate.options(), "--workers=3") as engine, raw_frontend(engine) as frontend:
        for count in (1, 2, 3):
            frontend.queues[0].offer(IN, read_bytes=512, head=2 * count)
            gate.wait_for_requests(count)
            assert len(workers_of(engine)) == count
        offer_reads(frontend, 1)
        eventually(lambda: snapshot(engine).depth == 4, "the fourth request")
        with gate.held_open():
            frontend.queues[0].wait_used(4)
        assert gate.begun_count == 4
        assert snapshot(engine).workers_up == 3


def test_a_worker_with_a_request_does_not_go(tmp_path: Path) -> None:
    """Those beside it come and go meanwhile."""
    gate = Gate(tmp_path)
    with (
        Engine(*gate.options(), "--workers=2", program=hasty_workers.PROGRAM) as engine,
        raw_frontend(engine) as frontend,
    ):
        frontend.queues[0].offer(IN, read_bytes=512, head=0)
        gate.wait_for_requests(1)
        (busy,) = workers_of(engine)
        for number in range(3):
            frontend.queues[0].offer(99, head=2)  # answered by the dispatcher: it goes round
            frontend.queues[0].wait_used(1)
            assert workers_of(engine) == [busy], number
        gate.open()
        frontend.queues[0].wait_used(1)
        eventually(lambda: has_ended(busy), "its end")


def test_one_that_dies_idle_has_a_successor_when_there_is_work() -> None:
    with Engine(*PSYNC) as engine, raw_frontend(engine) as frontend:
        queue = frontend.queues[0]
        assert queue.request(IN, read_bytes=512)[0] == OK
        (worker,) = workers_of(engine)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: "worker 0 died" in engine.log(), "the log line")
        eventually(lambda: snapshot(engine).workers[0].restart_count == 1, "the count")
        assert workers_of(engine) == []
        assert queue.request(IN, read_bytes=512)[0] == OK
        assert workers_of(engine) != [worker]


def test_a_backend_keeps_a_worker_as_long_as_there_is_a_guest(tmp_path: Path) -> None:
    options = ["--backend=kept_disk:KeptDisk", "--backend-arg=size_bytes=1048576", "--workers=2"]
    with Engine(*options, program=hasty_workers.PROGRAM) as engine:
        assert workers_of(engine) == []
        with raw_frontend(engine) as frontend:
            eventually(lambda: len(workers_of(engine)) == 1, "the worker")
            (first,) = workers_of(engine)
            assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
            os.kill(first, signal.SIGKILL)
            eventually(lambda: workers_of(engine) not in ([first], []), "another one, without a request")
        eventually(lambda: workers_of(engine) == [], "its end")


def test_a_limit_that_grows_and_shrinks_while_requests_wait(tmp_path: Path) -> None:
    """A limit that grows starts nobody by itself; one that shrinks ends those beyond it."""
    gate = Gate(tmp_path)
    control = tmp_path / "control"
    with (
        Engine(*gate.options(), "--workers=1", f"--control={control}") as engine,
        raw_frontend(engine) as frontend,
    ):
        client = ControlClient(control)
        frontend.queues[0].offer(IN, read_bytes=512, head=0)
        gate.wait_for_requests(1)
        described = client.change("/workers", count=3)
        assert (described["worker_count"], described["workers_up"]) == (3, 1)
        frontend.queues[0].offer(IN, read_bytes=512, head=2)
        gate.wait_for_requests(2)
        assert client.get()["workers_up"] == 2
        with gate.held_open():
            frontend.queues[0].wait_used(2)
        described = client.change("/workers", count=1)
        assert (described["worker_count"], described["workers_up"]) == (1, 1)
        assert frontend.queues[0].driver.used() == []


def without_descriptors(engine: Engine) -> Callable[[], None]:
    """Let its supervisor open nothing more; returns what ends that."""
    soft, hard = resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE)
    lowest = len(os.listdir(f"/proc/{engine.process.pid}/fd"))
    resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE, (lowest, hard))
    return lambda: resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE, (soft, hard)) and None


@pytest.mark.parametrize("up_before", [0, 1])
def test_a_host_that_starts_no_more_workers(tmp_path: Path, up_before: int) -> None:
    """Requests go to those that are up, or wait until the host gives what it lacks."""
    gate = Gate(tmp_path)
    with Engine(*gate.options(), "--workers=2") as engine, raw_frontend(engine) as frontend:
        offer_reads(frontend, up_before)
        gate.wait_for_requests(up_before)
        end = without_descriptors(engine)
        frontend.queues[0].offer(IN, read_bytes=512, head=10)
        line = f"worker {up_before} cannot be started: Too many open files; trying again every second"
        eventually(lambda: line in engine.log(), line)
        if up_before:
            gate.open()
            gate.wait_for_requests(2)  # by the one that is up
        end()
        eventually(lambda: len(workers_of(engine)) == up_before + 1, "a worker")
        with gate.held_open():  # one of them may have slipped through already
            frontend.queues[0].wait_used(up_before + 1)
        assert engine.log().count("cannot be started") == 1
