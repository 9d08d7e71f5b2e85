"""Children that die again and again, and requests that kill whoever does them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.request import BackendGone, RequestFailed
from ringblk.engine.statistics.statistics import take_snapshot
from ringblk.shm.state.segment import SEGMENT_PREFIX, StateSegment
from ringblk.workers.block.protocol import RequestStatus
from tests.crash.rig import Rig
from tests.rigs.backends.killer_disk import DEADLY
from tests.rigs.engine_process import EngineProcess, wait_gone

BLOCK = bytes(range(256)) * 16
DEADLY_BLOCK = DEADLY.ljust(4096, b".")


def killer_engine(folder: Path, manner: str, *options: str) -> EngineProcess:
    backend = ["--backend=killer_disk:KillerDisk", "--backend-arg=size_bytes=1048576"]
    return EngineProcess(folder / "socket", [*backend, f"--backend-arg=manner={manner}", *options])


@pytest.mark.parametrize("manner", ["segfault", "exit"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_request_that_kills_three_workers_is_answered_with_an_error(
    tmp_path: Path, manner: str, workers: int
) -> None:
    with killer_engine(tmp_path, manner, f"--workers={workers}") as engine:
        with Frontend(str(engine.socket_path), request_timeout_s=30.0) as disk:
            disk.write(4096, BLOCK)
            with pytest.raises(RequestFailed) as failure:
                disk.write(8192, DEADLY_BLOCK)
            assert failure.value.status == RequestStatus.IOERR
            assert disk.read(4096, 4096) == BLOCK  # the engine lives on, and what came before is there
            assert disk.read(8192, 4096) == bytes(4096)
        assert engine.log.count("died:") == 3
        assert "a request has killed three processes and is answered with an error: queue 0" in engine.log
        assert "offset 8192 length 4096" in engine.log


def test_a_request_whose_workers_kill_themselves_is_answered_or_the_engine_gives_up(tmp_path: Path) -> None:
    """Nobody can tell for sure who sent a SIGKILL; it must come to an end all the same."""
    engine = killer_engine(tmp_path, "kill", "--workers=1").wait_listening()
    with Frontend(str(engine.socket_path), request_timeout_s=30.0) as disk:
        with pytest.raises((RequestFailed, BackendGone)) as outcome:
            disk.write(8192, DEADLY_BLOCK)
        if outcome.type is BackendGone:
            assert engine.wait_end() == 1
        assert engine.log.count("died:") >= 3
    engine.end()


def test_deadly_requests_among_others_cost_only_themselves(tmp_path: Path) -> None:
    with (
        killer_engine(tmp_path, "segfault", "--workers=2") as engine,
        Frontend(str(engine.socket_path)) as disk,
    ):
        tokens = {}
        for number in range(24):
            buffer = disk.allocate(4096, 4096)
            buffer.view[:] = DEADLY_BLOCK if number == 11 else bytes([number]) * 4096
            tokens[disk.submit_write(number * 4096, buffer)] = number
        statuses = {}
        while tokens:
            for completion in disk.poll(1, 30.0):
                statuses[tokens.pop(completion.token)] = completion.status
        assert statuses == {number: RequestStatus.IOERR if number == 11 else 0 for number in range(24)}
        assert disk.read(12 * 4096, 4096) == bytes([12]) * 4096


def test_an_inline_request_that_kills_three_dispatchers_is_answered_with_an_error(tmp_path: Path) -> None:
    with (
        killer_engine(tmp_path, "segfault", "--io-engine=sync") as engine,
        Frontend(str(engine.socket_path), request_timeout_s=30.0) as disk,
    ):
        with pytest.raises(RequestFailed):
            disk.write(8192, DEADLY_BLOCK)
        disk.write(4096, BLOCK)
        assert engine.log.count("the dispatcher") == 3


def test_a_worker_that_never_starts_ends_the_engine(tmp_path: Path) -> None:
    engine = killer_engine(tmp_path, "start", "--workers=2").wait_listening()
    with Frontend(str(engine.socket_path), request_timeout_s=30.0) as disk, pytest.raises(BackendGone):
        disk.read(0, 4096)
    assert engine.wait_end() == 1
    assert "dies again and again without completing a request" in engine.log.splitlines()[-1]
    assert engine.log.count(" died") <= 12
    engine.end()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, has_crash_points=False)
    yield rig
    rig.close()


def test_a_dispatcher_killed_again_and_again_on_an_idle_engine_ends_it(rig: Rig) -> None:
    rig.run(10)
    rig.drain()
    engine = rig.engine
    pids = [engine.pid, *engine.children().values()]
    pid = 0
    for _ in range(6):
        pid = engine.wait_child("dispatcher", other_than=pid)
        pids.append(pid)
        os.kill(pid, signal.SIGKILL)
    assert engine.wait_end() == 1
    assert "dies again and again" in engine.log
    wait_gone(pids)
    rig.run(50)  # by a successor
    rig.check()


def test_what_is_in_flight_when_the_engine_gives_up_is_done_by_its_successor(rig: Rig) -> None:
    engine = rig.engine
    workers = [rig.run_until_there(role) for role in ("worker-0", "worker-1")]
    rig.drain()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    rig.load.submit_all()
    state = StateSegment.attach(f"{SEGMENT_PREFIX}{engine.pid}")
    rig.wait_for(
        lambda: (
            sum(queue.popped_count - queue.used_count for queue in take_snapshot(state).queues)
            == rig.load.inflight_count
        ),
        "all requests popped",
    )
    state.close()
    pid = 0
    for _ in range(6):
        pid = engine.wait_child("dispatcher", other_than=pid)
        os.kill(pid, signal.SIGKILL)
    assert engine.wait_end() == 1
    rig.drain()
    rig.check()
    assert "requests of an earlier engine" in rig.engine.log


def test_a_child_killed_again_and_again_under_load_is_replaced_every_time(rig: Rig) -> None:
    engine = rig.engine
    for role in ("dispatcher", "worker-0", "worker-1"):
        pid = 0
        for _ in range(8):
            pid = rig.run_until_there(role, other_than=pid)
            os.kill(pid, signal.SIGKILL)
            rig.run(30)
    rig.check()
    assert rig.engine is engine
