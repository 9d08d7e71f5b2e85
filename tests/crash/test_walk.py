"""Every crash point once: the process that comes to it dies there, and nothing is lost.

A verified load runs all the time. Whatever dies, each request is answered once and with success, and every
byte is one that the model allows, as the engine reads it and in the image.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.crash_points import point_names
from tests.crash.rig import Rig

POINTS = sorted(point_names())
# Points that a load alone does not reach: the deaths that lead to them.
AFTER_DEATH_AT = {
    "recovery: stale slot freed": "dispatcher: slot prepared",
    "recovery: slot taken back": "dispatcher: handed in the slot",
    "recovery: slot given again": "dispatcher: submit entry written",
    "recovery: published head cleared": "ring: used index published",
    "recovery: record agrees with the ring": "dispatcher: called",
    "recovery: called": "dispatcher: slot freed",
    "recovery: dead worker's slot taken back": "worker: taken",
    "recovery: dead worker's ring emptied": "worker: executed",
    "recovery: worker woken": "worker: done published",
    "supervisor: child reaped": "worker: taken",
    "supervisor: child forked": "inflight: flag set",
    "supervisor: set-up message sent": "dispatcher: slot prepared",
    "supervisor: worker replaced": "worker: about to sleep",
}
SUPERVISOR_POINTS = [name for name in POINTS if name.startswith("supervisor:")]
SESSION_POINTS = [name for name in POINTS if name.startswith("session:")]
URING_POINTS = [name for name in POINTS if name.startswith("uring:")]
RING_POINTS = [name for name in POINTS if name.startswith("dispatcher ring:")]
OVERLAP_POINTS = [name for name in POINTS if name.startswith("overlap:")]
"""Reached where parts of blocks are changed: tests/crash/test_partial_blocks.py."""
FAILED_DISK_POINTS = ["dispatcher ring: given away"]
"""Reached where a disk fails: tests/crash/test_slow_disk.py."""
GIVE_BACK_POINTS = [name for name in POINTS if name.startswith("give back:")]
"""Reached where requests wait for tokens: tests/crash/test_give_back.py."""
PENDING_POINTS = [name for name in POINTS if name.startswith("pending:")]
"""Reached where requests wait for somebody else, which those of a block device do not."""
FIRST_START_POINTS = ["recovery: record initialised"]
RECORD_POINTS = [name for name in POINTS if name.startswith(("record:", "rate group:"))]
"""Reached where something is set: tests/crash/test_settings_record.py."""
CHILD_POINTS = [
    name
    for name in POINTS
    if name
    not in SUPERVISOR_POINTS
    + SESSION_POINTS
    + URING_POINTS
    + RING_POINTS
    + GIVE_BACK_POINTS
    + OVERLAP_POINTS
    + PENDING_POINTS
    + FIRST_START_POINTS
    + RECORD_POINTS
]
INLINE_POINTS = [
    name for name in CHILD_POINTS if name.startswith(("dispatcher: inline", "inflight:", "ring:"))
]


class SharedRig:
    """One rig for many tests, made anew after one has failed on it."""

    def __init__(self, factory: pytest.TempPathFactory, *options: str) -> None:
        self._factory = factory
        self._options = options
        self._rig: Rig | None = None

    def walk(self, *deaths: tuple[str, int], must_happen: bool = True) -> None:
        """Run the load until the deaths have happened, and on; then look at every byte."""
        rig, self._rig = self._rig or Rig(self._factory.mktemp("walk"), *self._options), None
        supervisor = rig.engine.pid
        plan = rig.plan
        assert plan is not None
        try:
            plan.arm(*deaths)
            if must_happen:
                rig.run_until(lambda: plan.deaths == len(deaths), str(deaths))
            else:
                rig.run(150)
            plan.disarm()
            rig.run(150)
            rig.check()
            assert rig.engine.pid == supervisor, "the engine has ended"
        except BaseException:
            print(rig.engine.log)
            rig.engine.process.kill()
            raise
        self._rig = rig

    def close(self) -> None:
        if self._rig is not None:
            self._rig.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRig]:
    shared = SharedRig(tmp_path_factory)
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def inline_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRig]:
    shared = SharedRig(tmp_path_factory, "--io-engine=sync")
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def uring_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRig]:
    shared = SharedRig(tmp_path_factory, "--io-engine=io_uring")
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def ring_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRig]:
    shared = SharedRig(tmp_path_factory, "--io-engine=io_uring_inline")
    yield shared
    shared.close()


def with_cause(point: str, passage: int) -> list[tuple[str, int]]:
    """The deaths that end with one at the point."""
    cause = AFTER_DEATH_AT.get(point)
    return [(cause, passage), (point, 1)] if cause else [(point, passage)]


@pytest.mark.parametrize("passage", [1, 6])
@pytest.mark.parametrize("point", CHILD_POINTS)
def test_a_death_loses_nothing(rig: SharedRig, point: str, passage: int) -> None:
    rig.walk(*with_cause(point, passage))


@pytest.mark.parametrize("point", INLINE_POINTS)
def test_a_death_of_a_dispatcher_that_does_the_io_loses_nothing(inline_rig: SharedRig, point: str) -> None:
    inline_rig.walk((point, 4))


@pytest.mark.parametrize("point", URING_POINTS)
def test_a_death_over_io_uring_loses_nothing(uring_rig: SharedRig, point: str) -> None:
    uring_rig.walk((point, 5))


@pytest.mark.parametrize("point", [name for name in RING_POINTS if name not in FAILED_DISK_POINTS])
def test_a_death_of_a_dispatcher_with_io_under_way_loses_nothing(ring_rig: SharedRig, point: str) -> None:
    ring_rig.walk((point, 5))


@pytest.mark.parametrize("seed", range(24))
def test_deaths_in_a_row_lose_nothing(rig: SharedRig, seed: int) -> None:
    chosen = random.Random(seed)
    deaths = [(chosen.choice(CHILD_POINTS), chosen.randint(1, 5)) for _ in range(4)]
    rig.walk(*deaths, must_happen=False)


@pytest.mark.parametrize("point", FIRST_START_POINTS)
def test_a_death_while_a_queue_starts_loses_nothing(tmp_path: Path, point: str) -> None:
    rig = Rig(tmp_path, first_death=(point, 2))
    assert rig.plan is not None
    assert rig.plan.deaths == 1
    rig.run(100)
    rig.check()
    rig.close()
