"""The control plane dies at each point of a session, and its front end, which cannot reconnect, goes on.

Fault model: SIGKILL of the supervisor at a crash point, at a passage that lies in the connecting, in the load
or in the end of a front end. Zygote, dispatcher and workers live. The front end has one connection: where it
is closed, or an answer is missing or comes twice, the test fails.
"""

import os
import signal
from collections.abc import Iterator

import pytest

from ringblk.engine.base.restart_limit import MAX_DEATHS
from tests.crash.kept_rig import KeptRig
from tests.crash.walk_choice import walk
from tests.crash.walk_points import SESSION_POINTS

ONCE_A_SESSION = ("session: device reset", "session: end kept", "session: over")
PASSAGES = {
    **dict.fromkeys(SESSION_POINTS, (1, 6, 13, 21)),
    **dict.fromkeys(ONCE_A_SESSION, (1,)),
    "custody: state kept": (1, 6, 13, 21, 40),
    "custody: state with the zygote": (1, 2, 3, 7, 14, 22, 41),
}


class SharedKeptRig:
    """One engine for as many deaths as it bears, made anew after one has failed on it."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._rig: KeptRig | None = None

    def take(self) -> KeptRig:
        """An engine that bears another death. Who has not given it back has failed."""
        rig, self._rig = self._rig, None
        if rig is not None and rig.deaths < MAX_DEATHS:
            rig.wait_listening()
            return rig
        if rig is not None:
            rig.close()
        return KeptRig(self._factory.mktemp("kept"))

    def give_back(self, rig: KeptRig) -> None:
        self._rig = rig

    def close(self) -> None:
        if self._rig is not None:
            self._rig.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedKeptRig]:
    shared = SharedKeptRig(tmp_path_factory)
    yield shared
    shared.close()


@pytest.mark.parametrize(("point", "passage"), walk(PASSAGES))
def test_a_front_end_connects_though_the_control_plane_dies(
    shared: SharedKeptRig, point: str, passage: int
) -> None:
    rig = shared.take()
    try:
        rig.plan.arm((point, passage))
        with rig.connect() as disk:
            rig.run(disk)
        with rig.connect_to_next() as disk:
            rig.run(disk)
        assert rig.plan.deaths == 1
        assert "Traceback" not in rig.log
        rig.deaths += 1
    except BaseException:
        print(rig.log)
        rig.close()
        raise
    shared.give_back(rig)


def test_a_dispatcher_that_dies_while_it_hands_over_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The next control plane goes on from what the zygote has, and the front end does not notice."""
    rig = KeptRig(tmp_path_factory.mktemp("handed"))
    try:
        rig.plan.arm(("custody: handed over", 1))
        with rig.connect() as disk:
            rig.run(disk)
            os.kill(rig.first_pid, signal.SIGKILL)
            rig.wait(lambda: rig.plan.deaths == 1, "the dispatcher's death")
            rig.run(disk)
        assert "Traceback" not in rig.log
    finally:
        rig.close()
