"""Layers are sealed and merged under a load, and a process dies at each step: nothing is lost.

Fault model: SIGKILL of the supervisor, the dispatcher or a worker at a crash point; of the whole engine,
when one of them has died there. The disk keeps what was written to it. What was asked for when a process
died was done or was not. A snapshot looks at each block at some time between the request and its answer.
"""

import threading
from collections.abc import Iterator

import pytest

from tests.crash.layered_rig import AT_A_START, LayeredRig, SharedRig, finish, open_dies
from tests.crash.walk_choice import one_of, walk
from tests.crash.walk_points import CHAIN_POINTS

PASSAGES = {
    **dict.fromkeys(sorted(set(CHAIN_POINTS) - {AT_A_START}), (1, 2)),
    "chain: written": (1, 2, 4, 5),
    "chain: renamed": (1, 2, 4, 5),
    "chain: durable": (1, 2, 4, 5),
    "layers: blocks copied": (1, 7),
    "chain: file of a layer removed": (1, 2),
    "chain: layer on the disk": (1, 2),
}


UNSETTLED_POINTS = [
    "chain: renamed",
    "chain: durable",
    "layers: chain written",
    "layers: in use by the supervisor",
    "layers: workers told",
    "layers: in use by a worker",
    "layers: in use by the dispatcher",
    "layers: in use",
    "chain: layer on the disk",
]
"""Where a layer is sealed, and the chain does not say that it is on the disk."""
ENGINE_POINTS = ["chain: layer made", "layers: prepared", "chain: written", *UNSETTLED_POINTS]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRig]:
    shared = SharedRig(tmp_path_factory)
    yield shared
    shared.close()


@pytest.mark.parametrize(("point", "passage"), walk(PASSAGES))
def test_a_process_dies_while_layers_change(shared: SharedRig, point: str, passage: int) -> None:
    """A process dies while layers change: what it did is done by the next, or was not begun."""
    shared.die(point, passage, lambda rig, _: rig.change_layers)


@pytest.mark.parametrize(
    "point", [point for number in range(3) for point in one_of(ENGINE_POINTS[number::3], str(number))]
)
def test_the_engine_dies(tmp_path_factory: pytest.TempPathFactory, point: str) -> None:
    """All of it, when one of its processes has come to a step; and the next one while it begins."""
    rig = LayeredRig(tmp_path_factory)
    plan = rig.rig.plan
    try:
        with rig.rig.connect() as disk:
            rig.rig.run(disk, 20)
            rig.dies_whole = True
            plan.arm((point, 1))
            looks = rig.rig.load.begin_look()
            asking = threading.Thread(target=rig.ask_alone, args=("snapshots", {"name": "last"}))
            asking.start()
            while plan.deaths == 0:
                rig.step()
            rig.rig.kill_all()
            asking.join()
            rig.rig.load.end_look(looks)
            rig.looks["last"] = looks
            plan.arm((AT_A_START, 1))
            assert open_dies(rig) == (plan.deaths == 1) == (point in UNSETTLED_POINTS)
            finish(rig)
    except BaseException:
        print(rig.rig.log)
        rig.close()
        raise
