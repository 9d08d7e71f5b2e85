"""The control plane dies at each point of a session, and its front end, which cannot reconnect, goes on.

Fault model: SIGKILL of the supervisor at a crash point, at a passage that lies in the connecting, in the load
or in the end of a front end. Zygote, dispatcher and workers live. The front end has one connection: where it
is closed, or an answer is missing or comes twice, the test fails.
"""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.crash.kept_rig import KeptRig
from tests.crash.walk_points import SESSION_POINTS

PASSAGES = (1, 6, 13, 21)


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptRig]:
    rig = KeptRig(tmp_path_factory.mktemp("kept"))
    yield rig
    rig.close()


@pytest.mark.parametrize("passage", PASSAGES)
@pytest.mark.parametrize("point", [*SESSION_POINTS, "custody: state kept"])
def test_a_front_end_connects_though_the_control_plane_dies(rig: KeptRig, point: str, passage: int) -> None:
    rig.plan.arm((point, passage))
    with rig.connect() as disk:
        rig.run(disk)
    with rig.connect_to_next() as disk:
        rig.run(disk)
    assert "Traceback" not in rig.log


def test_a_dispatcher_that_dies_while_it_hands_over_loses_the_session_and_nothing_else(rig: KeptRig) -> None:
    """Both at once: the drive begins anew, and the front end goes on with what was in flight."""
    rig.plan.arm(("custody: handed over", 1))
    with rig.connect() as disk:
        rig.run(disk)
        os.kill(rig.first_pid, signal.SIGKILL)
        rig.wait(lambda: rig.plan.deaths == 1, "the dispatcher's death")
        rig.go_on(disk)
    assert "Traceback" not in rig.log
