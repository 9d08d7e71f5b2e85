"""Deaths of an overlay's processes: whatever dies, nothing that was written is lost, and nothing beside it.

The fault model: a process is killed between any two instructions, at named steps here; then the whole engine
is, and all that only memory had is lost. What was flushed before that must be on the disk.
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.crash_plan import CrashPlan
from tests.crash.overlay_drive import OverlayDrive
from tests.crash.partial_drive import IO_ENGINES
from tests.crash.walk_points import LAYER_POINTS

NUM_BLOCKS = 48
ROUNDS = 6
UNRECORDED_POINTS = ["layer: map about to be written", "layer: map flushed"]
"""Reached where more changes at once than the journal holds."""
HUGE_BYTES = 4 << 30


@contextlib.contextmanager
def ending(drive: OverlayDrive) -> Iterator[OverlayDrive]:
    try:
        yield drive
    except BaseException:
        print(drive.drive.engine.log)
        raise
    finally:
        drive.close()


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_deaths_under_load(tmp_path: Path, io_engine: str) -> None:
    roles = ["dispatcher", "worker-0", "worker-1", "supervisor", "worker-2", "dispatcher"]
    if io_engine == "sync":
        roles = ["dispatcher", "supervisor", "dispatcher"]
    with ending(OverlayDrive(tmp_path, NUM_BLOCKS, seed=7, io_engine=io_engine)) as overlay:
        drive = overlay.drive
        for role in itertools.islice(itertools.cycle(roles), ROUNDS):

            def kill(role: str = role) -> None:
                while not drive.engine.kill(role):  # one has gone, the next is not there yet
                    drive.engine.wait_child(role)
                if role == "supervisor":
                    drive.reconnect()

            overlay.load.round(drive.reconnect, kill)
        overlay.check_after_power_failure()


@pytest.mark.parametrize(
    ("point", "io_engine"),
    [
        *((name, "psync") for name in LAYER_POINTS if name not in UNRECORDED_POINTS),
        ("layer: blocks in the map", "io_uring"),
        ("layer: blocks in the map", "sync"),
        ("layer: record durable", "sync"),
    ],
)
def test_a_death_at_each_step(tmp_path: Path, point: str, io_engine: str) -> None:
    plan = CrashPlan(tmp_path / "plan")
    with ending(OverlayDrive(tmp_path, NUM_BLOCKS, seed=8, io_engine=io_engine, plan=plan)) as overlay:
        plan.arm((point, 3))
        for _ in range(20):
            overlay.load.round(overlay.drive.reconnect)
            if plan.deaths:
                break
        assert plan.deaths == 1, point
        plan.disarm()
        overlay.check_after_power_failure()


@pytest.mark.parametrize("point", [*UNRECORDED_POINTS, "layer: unit of the map written"])
def test_a_death_where_the_map_is_written_without_a_record(tmp_path: Path, point: str) -> None:
    plan = CrashPlan(tmp_path / "plan")
    with ending(OverlayDrive(tmp_path, 8, seed=9, plan=plan, size_bytes=HUGE_BYTES)) as overlay:
        disk = overlay.drive.disk
        overlay.load.round(overlay.drive.reconnect)
        disk.discard(1 << 20, HUGE_BYTES - (1 << 20))
        plan.arm((point, 1))
        disk.flush()
        assert plan.deaths == 1
        plan.disarm()
        overlay.check_after_power_failure()
