"""Workers come and go all the time, and a process dies at each step of that: nothing is lost.

The workers of this engine end as soon as they have nothing to do. At some steps it is the dispatcher that
dies, at others the supervisor, and then the front end goes on with another engine.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.rig import Rig
from tests.crash.walk_choice import walk
from tests.crash.walk_points import WORKERS_POINTS
from tests.rigs import hasty_workers


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, program=hasty_workers.PROGRAM)
    yield rig
    rig.close()


def go_to_rest(rig: Rig) -> None:
    """Let the load end, and wait until its workers have."""
    rig.drain()
    rig.wait_for(lambda: rig.engine.children().keys() <= {"dispatcher"}, "the workers' end")


@pytest.mark.parametrize(("point", "passage"), walk(dict.fromkeys(WORKERS_POINTS, (1, 4))))
def test_a_death_where_workers_come_and_go_loses_nothing(rig: Rig, point: str, passage: int) -> None:
    plan = rig.plan
    assert plan is not None
    rig.run(10)
    plan.arm((point, passage))
    for _ in range(60):
        if plan.deaths:
            break
        go_to_rest(rig)
        rig.run(5)
    assert plan.deaths == 1, f"{point} was not reached"
    plan.disarm()
    rig.run(60)
    go_to_rest(rig)
    rig.run(10)
    rig.check()


@pytest.mark.parametrize(
    "point", ["workers: asked for", "workers: request kept", "dispatcher: handed in the slot"]
)
def test_a_worker_and_the_dispatcher_die_one_after_the_other(rig: Rig, point: str) -> None:
    """The request that waited for the worker waits in the next dispatcher as well."""
    plan = rig.plan
    assert plan is not None
    go_to_rest(rig)
    plan.arm((point, 1), ("worker: taken", 1), ("recovery: worker woken", 1))
    rig.run_until(lambda: plan.deaths == 3, "three deaths")
    plan.disarm()
    rig.run(60)
    rig.check()
