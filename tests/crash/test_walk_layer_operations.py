"""Resets, commits, flattening and growth under a load; a process dies at each step: it was done or was not.

Fault model: SIGKILL of the supervisor, the dispatcher or a worker at a crash point; of the whole engine, when
one of them has died there. The disk keeps what was written to it. A drive that is reset is as it was then or
as it is, but for what is written meanwhile; a snapshot that is committed to is as it was, or as the drive is.
"""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from ringblk import Frontend
from tests.crash.layered_rig import AT_A_START, LayeredRig, SharedRig, finish
from tests.crash.walk_choice import one_of
from tests.crash.walk_points import CHAIN_POINTS

COPIED = "layers: blocks copied"
REMOVED = "chain: file of a layer removed"
SETTLED = "chain: layer on the disk"
IN_USE = [name for name in CHAIN_POINTS if name.startswith("layers: in use")]
CHAIN_FILE = ["chain: written", "chain: renamed", "chain: durable"]
ONCE = dict.fromkeys(sorted(set(CHAIN_POINTS) - {AT_A_START, COPIED, REMOVED, SETTLED}), (1,))
TWICE = {
    **ONCE,
    **dict.fromkeys(["layers: workers told", "layers: chain written", *IN_USE], (1, 2)),
    SETTLED: (1,),
}
"""A change of layers, and one that ends a merge."""
MERGING = {**TWICE, **dict.fromkeys(CHAIN_FILE, (1, 2, 3)), COPIED: (1, 7), REMOVED: (1, 2)}
PASSAGES: dict[str, dict[str, tuple[int, ...]]] = {
    "reset": {**ONCE, REMOVED: (1, 2, 3)},
    "commit": MERGING,
    "flatten": {**TWICE, **dict.fromkeys(CHAIN_FILE, (1, 2, 3, 4)), COPIED: (1, 7)},
    "grow": MERGING,
}
STEPS = {
    operation: [(operation, point, passage) for point, passages in points.items() for passage in passages]
    for operation, points in PASSAGES.items()
}
SOME = [step for operation, steps in STEPS.items() for step in one_of(steps, operation)]
SOME_FIRST = [
    step
    for operation, steps in STEPS.items()
    for step in one_of([each for each in steps if each[2] == 1], f"{operation} whole")
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRig]:
    shared = SharedRig(tmp_path_factory)
    yield shared
    shared.close()


def prepare(rig: LayeredRig, operation: str) -> str:
    """What there has to be before; the name of the snapshot that it is about."""
    name = "" if operation == "flatten" else rig.snapshot()
    if operation == "grow":
        rig.grow()  # so that the next one leaves something to merge
    rig.drain()
    return name


def carry_out(rig: LayeredRig, operation: str, name: str) -> None:
    """To the end of what it leaves to do in the background, whatever dies."""
    match operation:
        case "reset":
            rig.reset(name)
        case "commit":
            rig.commit(name)
        case "flatten":
            rig.flatten()
        case "grow":
            rig.grow()


@pytest.mark.parametrize(("operation", "point", "passage"), SOME)
def test_a_process_dies(shared: SharedRig, operation: str, point: str, passage: int) -> None:
    """What was asked for is done by the next process, or was not begun; requests go on."""

    def begin(rig: LayeredRig, disk: Frontend) -> Callable[[], None]:
        name = prepare(rig, operation)
        rig.rig.run(disk, 20)
        return partial(carry_out, rig, operation, name)

    shared.die(point, passage, begin, is_new=operation == "flatten")


@pytest.mark.parametrize(("operation", "point", "passage"), SOME_FIRST)
def test_the_engine_dies(
    tmp_path_factory: pytest.TempPathFactory, operation: str, point: str, passage: int
) -> None:
    """All of it, when one of its processes has come to a step: the next engine finds one or the other."""
    rig = LayeredRig(tmp_path_factory)
    try:
        with rig.rig.connect() as disk:
            rig.rig.run(disk, 20)
            name = prepare(rig, operation)
            rig.rig.run(disk, 20)
            rig.dies_whole = True
            rig.rig.plan.arm((point, passage))
            carry_out(rig, operation, name)
            assert rig.is_dead, f"nobody comes to {point}"
        finish(rig)
    except BaseException:
        print(rig.rig.log)
        rig.close()
        raise
