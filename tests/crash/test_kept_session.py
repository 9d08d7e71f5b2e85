"""A vhost-user session outlives the processes that serve it.

Fault model: the process that serves the session is ended by SIGKILL, at any crash point or any other
moment, in the middle of bursts, of half messages and of replies with descriptors; so is the next, and so on.
The front end, the custodian and the device's effects (a dispatcher in an engine) live on. A process is not
killed before the session is kept for the first time: until then the connection is its own.

Then the front end sees each reply once and in order, each message has its effects once, with the descriptors
that came with it, and nobody has a descriptor left: what an undisturbed session comes to.
"""

import os
from collections.abc import Iterator

import pytest

from tests.crash.crash_plan import CrashPlan
from tests.crash.walk_choice import walk
from tests.crash.walk_points import KEPT_POINTS, SESSION_POINTS
from tests.rigs.session_lives import SessionLives
from tests.rigs.session_script import Script
from tests.rigs.vhost_user_client import no_fd_left
from tests.stress.kept_session_rounds import LENGTH, check_same, disturb, never

ONCE_A_SESSION = ("session: over", "session: end kept", "session: device reset", "channel: change told")
PASSAGES = {
    **dict.fromkeys((*SESSION_POINTS, *KEPT_POINTS), (1, 4, 15)),
    **dict.fromkeys(ONCE_A_SESSION, (1,)),
}
ROUNDS = int(os.environ.get("RINGBLK_KEPT_SESSION_ROUNDS", "2"))
"""How many sessions are disturbed at random moments; `./scripts/stress --machine=kept_session` goes on."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> CrashPlan:
    return CrashPlan(tmp_path_factory.mktemp("plan") / "plan")


@pytest.fixture(scope="module")
def lives(plan: CrashPlan) -> Iterator[SessionLives]:
    lives = SessionLives(plan)
    yield lives
    lives.close()


@pytest.fixture(scope="module")
def lives_as_built() -> Iterator[SessionLives]:
    """With processes of the build that users have."""
    lives = SessionLives()
    yield lives
    lives.close()


@pytest.mark.parametrize(("point", "passage"), walk(PASSAGES))
def test_deaths_at_each_point(lives: SessionLives, plan: CrashPlan, point: str, passage: int) -> None:
    script = Script(passage, LENGTH)
    with no_fd_left():
        plan.disarm()
        undisturbed = lives.run(script, passage, never)
        plan.arm((point, passage), (point, 1))
        disturbed = lives.run(script, passage, never)
    check_same(disturbed, undisturbed)
    assert disturbed.deaths == plan.deaths >= 1
    script.close()


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_deaths_at_any_moment(lives_as_built: SessionLives, round_number: int) -> None:
    disturb(lives_as_built, round_number)
