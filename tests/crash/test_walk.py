"""Every crash point once: the process that comes to it dies there, and nothing is lost.

A verified load runs all the time. Whatever dies, each request is answered once and with success, and every
byte is one that the model allows, as the engine reads it and in the image.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.rig import Rig
from tests.crash.walk_choice import IS_WHOLE, walk
from tests.crash.walk_points import (
    CHILD_POINTS,
    FAILED_DISK_POINTS,
    FIRST_START_POINTS,
    INLINE_POINTS,
    RING_POINTS,
    URING_POINTS,
    with_cause,
)


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


@pytest.mark.parametrize(("point", "passage"), walk(dict.fromkeys(CHILD_POINTS, (1, 6))))
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


@pytest.mark.parametrize("seed", range(24 if IS_WHOLE else 8))
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
