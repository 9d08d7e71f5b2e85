"""Processes that die while their writes hang in the kernel: these land before anything is done again.

Were a dead process's request done again at once, its first write could land last, over what the guest has
written since. So a request must not be seen a second time before its first write was answered.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import RequestStatus
from tests.crash.rig import NUM_BLOCKS, Rig
from tests.rigs import standing_workers
from tests.rigs.crash_load import BLOCK_BYTES
from tests.rigs.engine_process import EngineProcess, wait_gone
from tests.rigs.stalling_file import StallingFile, stalling_file

OLD, NEW = b"old" + b"." * 4093, b"new" + b"!" * 4093
PLACE = NUM_BLOCKS * BLOCK_BYTES
"""Beyond what the load uses."""


@pytest.fixture
def disk_file(tmp_path: Path) -> Iterator[StallingFile]:
    with stalling_file(tmp_path, PLACE + (1 << 20)) as file:
        yield file


@pytest.fixture
def inline_rig(tmp_path: Path, disk_file: StallingFile) -> Iterator[Rig]:
    yield from run_rig(tmp_path, disk_file, "io_uring_inline")


@pytest.fixture
def mortal_rig(tmp_path: Path, disk_file: StallingFile) -> Iterator[Rig]:
    yield from run_rig(tmp_path, disk_file, "io_uring_inline", has_crash_points=True)


@pytest.fixture(params=["psync", "io_uring"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, disk_file: StallingFile) -> Iterator[Rig]:
    yield from run_rig(tmp_path, disk_file, request.param)


def run_rig(
    tmp_path: Path, disk_file: StallingFile, io_engine: str, *, has_crash_points: bool = False
) -> Iterator[Rig]:
    """An engine on the file, idle."""
    options = (f"--io-engine={io_engine}", "--workers=3")
    rig = Rig(
        tmp_path,
        *options,
        has_crash_points=has_crash_points,
        image=disk_file.path,
        program=standing_workers.PROGRAM,
    )
    rig.run(30)
    rig.drain()
    yield rig
    disk_file.go_on()
    rig.close()


def begin_old_write(rig: Rig, disk_file: StallingFile) -> int:
    """Submit a write and wait until it hangs in the disk; its token."""
    disk_file.stall()
    buffer = rig.disk.allocate(4096, 4096)
    buffer.view[:] = OLD
    token = rig.disk.submit_write(PLACE, buffer)
    rig.disk.submit()
    disk_file.wait_for(lambda: disk_file.held_offsets == [PLACE])
    return token


def finish(rig: Rig, disk_file: StallingFile, token: int) -> None:
    """End the stall: the old write is reported, and a new one over it stays."""
    assert disk_file.write_log.count(PLACE) == 1
    disk_file.go_on()
    assert rig.disk.wait(token, 30.0).status == 0
    rig.disk.write(PLACE, NEW)
    rig.run(50)
    rig.check()
    assert rig.disk.read(PLACE, 4096) == NEW
    assert bytes(disk_file.content[PLACE : PLACE + 4096]) == NEW


def workers_of(engine: EngineProcess) -> dict[str, int]:
    return {role: pid for role, pid in engine.children().items() if role.startswith("worker")}


def kill_workers(rig: Rig) -> None:
    """Kill all workers; returns when all but the one that hangs were replaced."""
    workers = workers_of(rig.engine)
    for role in workers:
        rig.engine.kill(role)
    rig.wait_for(
        lambda: (
            sum(workers_of(rig.engine).get(role) not in (None, pid) for role, pid in workers.items()) >= 2
        ),
        "two new workers",
    )


def test_a_killed_workers_write_lands_before_it_is_done_again(rig: Rig, disk_file: StallingFile) -> None:
    """A worker dies: its requests are done by others once its own I/O can no longer land."""
    token = begin_old_write(rig, disk_file)
    kill_workers(rig)
    for _ in range(20):
        rig.disk.read(0, 4096)  # the engine does what it can meanwhile
    finish(rig, disk_file, token)


def test_a_dispatcher_that_dies_meanwhile_does_not_repeat_it(rig: Rig, disk_file: StallingFile) -> None:
    """The dispatcher dies: the next one waits for what hangs in a worker."""
    token = begin_old_write(rig, disk_file)
    for _ in range(2):
        pid = rig.engine.wait_child("dispatcher")
        rig.engine.kill("dispatcher")
        rig.engine.wait_child("dispatcher", other_than=pid)
        rig.disk.read(0, 4096)
    finish(rig, disk_file, token)


def test_a_killed_dispatchers_own_write_lands_before_it_is_done_again(
    inline_rig: Rig, disk_file: StallingFile
) -> None:
    token = begin_old_write(inline_rig, disk_file)
    for role in workers_of(inline_rig.engine):
        inline_rig.engine.kill(role)
    inline_rig.engine.kill("dispatcher")
    finish(inline_rig, disk_file, token)


def test_what_fails_in_the_dispatchers_ring_is_for_a_worker(mortal_rig: Rig, disk_file: StallingFile) -> None:
    plan = mortal_rig.plan
    assert plan is not None
    plan.arm(("dispatcher ring: given away", 1))
    disk_file.failure = errno.EIO
    buffer = mortal_rig.disk.allocate(4096, 4096)
    while (
        not plan.deaths
    ):  # a dispatcher that the host lets wait has no time to spare, and asks a worker at once
        before = disk_file.write_log.count(PLACE)
        token = mortal_rig.disk.submit_write(PLACE, buffer)
        mortal_rig.disk.submit()
        assert mortal_rig.disk.wait(token, 30.0).status == RequestStatus.IOERR
    assert plan.deaths == 1  # and another dispatcher has given it away
    assert disk_file.write_log.count(PLACE) - before >= 3  # twice by a ring, at last by a worker
    disk_file.failure = 0
    mortal_rig.disk.write(PLACE, NEW)
    mortal_rig.run(50)
    mortal_rig.check()


def test_worker_and_dispatcher_at_once(rig: Rig, disk_file: StallingFile) -> None:
    token = begin_old_write(rig, disk_file)
    rig.engine.kill("dispatcher")
    kill_workers(rig)
    for _ in range(20):
        rig.disk.read(0, 4096)
    finish(rig, disk_file, token)


def test_the_next_engine_waits_for_it(rig: Rig, disk_file: StallingFile) -> None:
    """The supervisor dies: the next engine begins when what hangs in a worker has landed."""
    token = begin_old_write(rig, disk_file)
    pids = [rig.engine.pid, *rig.engine.children().values()]
    rig.engine.kill("supervisor")
    successor = EngineProcess(rig.socket_path, rig.options)
    successor.wait_log("waiting for the last process of the engine before this one")
    assert disk_file.write_log.count(PLACE) == 1
    disk_file.go_on()
    rig.engine = successor.wait_listening()
    wait_gone(pids)
    rig.reconnect()
    assert rig.disk.wait(token, 30.0).status == 0
    rig.disk.write(PLACE, NEW)
    rig.run(50)
    rig.check()
    assert bytes(disk_file.content[PLACE : PLACE + 4096]) == NEW


def test_stalls_and_kills_under_load(rig: Rig, disk_file: StallingFile) -> None:
    for number in range(9):
        disk_file.stall()
        while not disk_file.held_offsets:
            rig.step()
        role = ("worker-0", "dispatcher", "worker-1")[number % 3]
        pid = rig.engine.wait_child(role)
        os.kill(pid, 9)
        rig.step()
        disk_file.go_on()
        rig.run(40)
    rig.check()
