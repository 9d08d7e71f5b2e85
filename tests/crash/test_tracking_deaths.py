"""Deaths of processes of a drive whose changes are tracked: no block that was changed is missing afterwards.

The fault model: a process is killed between any two instructions, at named steps here; then the engine is.
"""

import contextlib
import tempfile
from pathlib import Path

import pytest

from ringblk.workers.changes.tracker_folder import START, TrackerFolder
from tests.crash.crash_plan import CrashPlan
from tests.crash.partial_drive import PartialDrive
from tests.crash.partial_load import PartialLoad
from tests.crash.walk_points import CHANGES_POINTS
from tests.rigs.crash_load import BLOCK_BYTES, pattern

NUM_BLOCKS = 48
FIRST_STAMP = 1 << 40
SECTORS = BLOCK_BYTES // 512
ONCE = "changes: region durable"
"""Reached with the first change of a session."""


@pytest.mark.parametrize("io_engine", ["psync", "io_uring", "sync"])
@pytest.mark.parametrize("point", CHANGES_POINTS)
def test_a_death_at_each_step(tmp_path: Path, point: str, io_engine: str) -> None:
    plan = CrashPlan(tmp_path / "plan")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ringblk-test-") as name:
        image, changes = Path(name) / "image", Path(name) / "changes"
        before = b"".join(pattern(FIRST_STAMP, sector) for sector in range(NUM_BLOCKS * SECTORS))
        image.write_bytes(before)
        options = (f"--blk-file={image}", f"--track-changes={changes}")
        plan.arm((point, 1 if point == ONCE else 3))
        drive = PartialDrive(tmp_path, *options, plan=plan, io_engine=io_engine)
        with contextlib.closing(drive):
            load = PartialLoad(drive.disk, NUM_BLOCKS, 8, first_stamp=FIRST_STAMP, flushes=True)
            for _ in range(20):
                load.round(drive.reconnect)
                if plan.deaths:
                    break
            assert plan.deaths == 1, point
            plan.disarm()
            load.round(drive.reconnect)
            drive.engine.kill("supervisor")
            drive.engine.wait_end()
            drive.engine.end()
            tracker = TrackerFolder(str(changes))
            told = tracker.changed_since(START)
            now = image.read_bytes()
            for block in range(NUM_BLOCKS):
                place = slice(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
                assert told[block // 8] >> block % 8 & 1 or now[place] == before[place], block
            tracker.close()
