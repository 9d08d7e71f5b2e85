"""An engine dies while it keeps, or takes over, what was set: the next one is set as before or after."""

import http.client
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import pytest

from ringblk.shm.segments.shared_folder import FOLDER
from tests.crash.crash_plan import CrashPlan
from tests.crash.walk_points import RECORD_POINTS
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_process import EngineProcess
from tests.rigs.engine_rig import eventually

LIMITS = [1_000_000, 2_000_000, 3_000_000]
START_POINTS = {
    "record: slot written": 1,
    "record: former one about to be removed": 1,
    "record: former one removed": 1,
    "rate group: settings carried over": 1,
}


class Drive:
    """One drive, the engines that serve it one after the other, and a plan for their deaths."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.plan = CrashPlan(folder / "plan")
        self.plan.disarm()
        self._socket_path = folder / "socket"
        self.control = ControlClient(folder / "control")
        image = folder / "disk.img"
        image.write_bytes(bytes(1 << 20))
        self._options = [
            f"--blk-file={image}", f"--control={self.control.socket_path}", "--workers=1", *options,
        ]  # fmt: skip
        self.engine = self.begin()
        self.wait_ready()

    def begin(self) -> EngineProcess:
        self.engine = EngineProcess(self._socket_path, self._options, self.plan.path)
        return self.engine

    def wait_ready(self) -> None:
        """Wait until it says what it is, which it does when its control API is there."""
        says = f"ringblk[{self.engine.pid}] INFO: /"
        eventually(
            lambda: says in self.engine.log or self.engine.process.poll() is not None, "its first line"
        )
        assert self.engine.process.poll() is None, self.engine.log

    def set_limit(self, bps: int) -> bool:
        """Whether it was answered."""
        try:
            return self.control.ask("PATCH", "/drive", {"bps": bps})[0] == 200
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return False

    @property
    def limit(self) -> int | None:
        found: int | None = self.control.get()["drive"]["bps"]
        return found

    def close(self) -> None:
        self.plan.disarm()
        self.engine.process.kill()
        self.engine.process.wait()


@pytest.fixture
def group() -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex}"
    yield name
    if os.path.exists(f"{FOLDER}/ringblk-rate-{name}"):
        posix_ipc.unlink_shared_memory(f"/ringblk-rate-{name}")


def test_every_point_is_walked() -> None:
    assert sorted(START_POINTS) == sorted(RECORD_POINTS)


@pytest.mark.parametrize("answered_count", [0, 1, 2])
def test_an_engine_dies_while_something_is_set(tmp_path: Path, answered_count: int) -> None:
    drive = Drive(tmp_path)
    drive.plan.arm(("record: slot written", answered_count + 1))
    assert [drive.set_limit(bps) for bps in LIMITS] == [
        *[True] * answered_count,
        *[False] * (len(LIMITS) - answered_count),
    ]
    assert drive.plan.deaths == 1
    drive.engine.process.wait()
    drive.plan.disarm()
    drive.begin()
    drive.wait_ready()
    assert drive.limit == LIMITS[answered_count]  # it was written, though not answered
    drive.close()


@pytest.mark.parametrize("point", START_POINTS)
def test_a_successor_dies_while_it_takes_over(tmp_path: Path, group: str, point: str) -> None:
    options = [f"--rate-group={group}"] if point.startswith("rate group:") else []
    drive = Drive(tmp_path, *options)
    assert drive.set_limit(LIMITS[0])
    drive.engine.process.kill()
    drive.engine.process.wait()
    drive.plan.arm((point, START_POINTS[point]))
    drive.begin().process.wait()
    assert drive.plan.deaths == 1
    drive.plan.disarm()
    drive.begin()
    drive.wait_ready()
    assert drive.limit == LIMITS[0]
    drive.close()
