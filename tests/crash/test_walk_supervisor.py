"""The supervisor dies at each of its crash points: the front end goes on with the next engine.

Its children end with it, the in-flight region goes to the new engine, and nothing is lost. Session points are
passed while a front end connects, so the death comes in the middle of that.
"""

from collections.abc import Iterator

import pytest

from tests.crash.rig import Rig
from tests.crash.walk_choice import walk
from tests.crash.walk_points import SESSION_POINTS, SUPERVISOR_POINTS, with_cause
from tests.rigs.engine_process import wait_gone

PASSAGES = {
    "supervisor: region forgotten": 1,
    "supervisor: slots opened": 1,
    "supervisor: slots closed": 1,
}
CONNECT_PASSAGES = {
    "session: message carried out": (1, 8, 10, 12, 17, 22, 25),
    "session: reply sent": (2, 9, 24),
}


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("supervisor"))
    yield rig
    rig.close()


def check_next_engine(rig: Rig, pids: list[int]) -> None:
    """Another engine does the rest, and nothing is left of the first."""
    assert rig.plan is not None
    rig.plan.disarm()
    rig.run(100)
    rig.check()
    assert rig.engine.pid not in pids
    wait_gone(pids)


@pytest.mark.parametrize("point", SUPERVISOR_POINTS)
def test_a_supervisor_that_dies_has_a_successor(rig: Rig, point: str) -> None:
    assert rig.plan is not None
    plan = rig.plan
    pids = [rig.engine.pid, *rig.engine.children().values()]
    deaths = with_cause(point, PASSAGES.get(point, 3))
    rig.plan.arm(*deaths)
    if len(deaths) == 1:
        rig.reconnect()
    rig.run_until(lambda: plan.deaths == len(deaths), point)
    check_next_engine(rig, pids)


@pytest.mark.parametrize(
    ("point", "passage"), walk({point: CONNECT_PASSAGES.get(point, (1,)) for point in SESSION_POINTS})
)
def test_a_supervisor_that_dies_while_a_front_end_connects_has_a_successor(
    rig: Rig, point: str, passage: int
) -> None:
    assert rig.plan is not None
    rig.run(20)
    pids = [rig.engine.pid, *rig.engine.children().values()]
    rig.plan.arm((point, passage))
    rig.load.submit_all()
    rig.reconnect()
    assert rig.plan.deaths == 1
    check_next_engine(rig, pids)
