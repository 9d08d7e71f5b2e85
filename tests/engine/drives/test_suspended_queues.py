"""Queues that stop with requests in flight (GET_VRING_BASE_SKIP_DRAIN), which another engine does.

Fault model: the disk takes writes and does not answer for as long as it likes. Meanwhile dispatcher, worker
or the whole source engine is killed, the move is cancelled, either front end hangs up. Whatever happens, a
write of the source's never lands after the target has begun.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.rigs.dirty_log import logged
from tests.rigs.engine_rig import Engine, eventually
from tests.rigs.inline_device import OUT
from tests.rigs.many_drives import ManyDrives
from tests.rigs.moving_frontend import (
    NEW,
    PLACE,
    SIZE_BYTES,
    MovingFrontend,
    check_done,
    coarse_options,
    suspended,
)
from tests.rigs.process_tree import drive_processes_of, process_name
from tests.rigs.stalling_file import StallingFile, stalling_file

COMMON = ("--direct=off", "--workers=1", "--lock=running")


@pytest.fixture
def disk_file(tmp_path: Path) -> Iterator[StallingFile]:
    with stalling_file(tmp_path, SIZE_BYTES) as file:
        yield file
        file.go_on()


@pytest.fixture(params=["psync", "io_uring_inline"])
def options(request: pytest.FixtureRequest, disk_file: StallingFile) -> tuple[str, ...]:
    """A worker has what is in flight, or the dispatcher."""
    return (f"--blk-file={disk_file.path}", f"--io-engine={request.param}", *COMMON)


@pytest.fixture
def plain_options(disk_file: StallingFile) -> tuple[str, ...]:
    return (f"--blk-file={disk_file.path}", "--io-engine=psync", *COMMON)


def test_the_target_does_what_was_in_flight(options: tuple[str, ...], disk_file: StallingFile) -> None:
    """Its queue starts at once, and rests until the source's write has landed."""
    with suspended(options, disk_file) as (source, target, frontend):
        frontend.move(target)
        eventually(lambda: "the queues wait for the image" in target.log(), "the target waits")
        assert frontend.queues[0].driver.used() == []
        assert disk_file.write_log.count(4096) == 2  # the first write, and the one that hangs
        assert "given up" not in source.log()
        disk_file.go_on()
        check_done(frontend, disk_file)
        assert disk_file.write_log.count(4096) == 4  # the target's two


def test_a_cancelled_move_goes_on_at_the_source(
    plain_options: tuple[str, ...], disk_file: StallingFile
) -> None:
    with suspended(plain_options, disk_file) as (_, _, frontend):
        disk_file.go_on()
        frontend.go_on()
        check_done(frontend, disk_file)


def test_a_target_that_was_not_wanted_leaves_the_image(
    plain_options: tuple[str, ...], disk_file: StallingFile
) -> None:
    """It stops, or hangs up, while it waits; the source goes on."""
    with suspended(plain_options, disk_file) as (_, target, frontend):
        frontend.move(target)
        assert frontend.connection.get_vring_base(0) == 3
        frontend.start_queue(0)
        frontend.connection.close()
        frontend.connection = frontend.left
        disk_file.go_on()
        eventually(lambda: "front end has disconnected" in target.log(), "the target to be left")
        frontend.go_on()
        check_done(frontend, disk_file)


def kill_source(source: Engine) -> None:
    source.process.kill()


def kill_dispatcher(source: Engine) -> None:
    os.kill(process_named(source, "rb-dispatcher"), signal.SIGKILL)


def kill_worker(source: Engine) -> None:
    for pid in drive_processes_of(source.process.pid):
        if process_name(pid).startswith("rb-worker"):
            os.kill(pid, signal.SIGKILL)


def hang_up(source: Engine) -> None:
    """The front end does, in the test."""


def process_named(engine: Engine, name: str) -> int:
    (pid,) = [pid for pid in drive_processes_of(engine.process.pid) if process_name(pid) == name]
    return pid


@pytest.mark.parametrize("kill", [kill_source, kill_dispatcher, kill_worker, hang_up])
def test_a_source_that_dies_has_its_write_landed_before_the_target_begins(
    options: tuple[str, ...], disk_file: StallingFile, kill: Callable[[Engine], None]
) -> None:
    with suspended(options, disk_file) as (source, target, frontend):
        kill(source)
        if kill is hang_up:
            frontend.connection.close()
        frontend.move(target)
        eventually(lambda: "the queues wait for the image" in target.log(), "the target waits")
        assert disk_file.held_offsets == [4096]
        disk_file.go_on()
        check_done(frontend, disk_file)


def test_a_queue_that_nobody_would_wait_for_is_drained(
    plain_options: tuple[str, ...], disk_file: StallingFile
) -> None:
    """Without a dirty log nothing moves, and with `--lock=always` nobody could begin."""
    with Engine(*plain_options, "--lock=always") as engine, MovingFrontend(engine) as frontend:
        frontend.begin()
        with logged(frontend), ThreadPoolExecutor() as pool:
            disk_file.stall()
            frontend.queues[0].offer(OUT, PLACE // 512, data=NEW)
            disk_file.wait_for(lambda: PLACE in disk_file.held_offsets)
            suspended_at = pool.submit(frontend.suspend)
            disk_file.go_on()
            assert suspended_at.result() == 1
            assert len(frontend.queues[0].driver.used()) == 1


def test_what_waits_for_tokens_goes_back_to_the_ring(
    plain_options: tuple[str, ...], disk_file: StallingFile
) -> None:
    with suspended((*plain_options, "--iops=50"), disk_file, count=4) as (_, target, frontend):
        frontend.move(target)
        disk_file.go_on()
        check_done(frontend, disk_file, count=4)


def test_what_waits_for_its_block_is_not_done_at_the_source(disk_file: StallingFile) -> None:
    """A part of the block that the source writes still: it is the target's alone."""
    options = coarse_options(disk_file)
    with suspended(options, disk_file, partial_count=2) as (source, target, frontend):
        writes = len(disk_file.write_log)
        disk_file.go_on()
        eventually(lambda: "the image is given up" in source.log(), "the source to give up")
        assert len(disk_file.write_log) == writes
        frontend.move(target)
        check_done(frontend, disk_file, count=3)


@pytest.mark.parametrize("dies", ["source", "target"])
def test_a_control_plane_that_dies_meanwhile_is_followed_by_another(
    disk_file: StallingFile, dies: str
) -> None:
    """It gives the image up that its predecessor was to give up, or takes the one that was waited for."""
    drive = {
        "blk_file": str(disk_file.path),
        "io_engine": "psync",
        "direct": "off",
        "workers": 1,
        "lock": "running",
    }
    with (
        ManyDrives({"kept": drive}) as source,
        ManyDrives({"kept": drive}) as target,
        MovingFrontend(connected_to(source)) as frontend,
        contextlib.closing(DiskAnswers(disk_file)),
    ):
        frontend.begin()
        disk_file.stall()
        frontend.queues[0].offer(OUT, PLACE // 512, data=NEW)
        disk_file.wait_for(lambda: PLACE in disk_file.held_offsets)
        with logged(frontend):
            assert frontend.suspend() == 1
        frontend.move(connected_to(target))
        eventually(lambda: "the queues wait for the image" in target.log(), "the target waits")
        (source if dies == "source" else target).kill_control_plane()
        assert frontend.queues[0].driver.used() == []
        assert disk_file.held_offsets == [PLACE]
        disk_file.go_on()
        check_done(frontend, disk_file)


class DiskAnswers:
    """So that no process hangs in the disk when the test is over."""

    def __init__(self, disk_file: StallingFile) -> None:
        self.close = disk_file.go_on


def connected_to(engine: ManyDrives) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(str(engine.socket_path("kept")))
    return connected
