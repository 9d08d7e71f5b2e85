"""The control plane of an engine with a list of drives dies at each of its points, and another goes on.

Fault model: SIGKILL of the supervisor at each point that it passes while it begins, while a drive comes and
goes, and while it ends; of the zygote at the points where it starts another supervisor; and of the next
supervisor at the same point again.
"""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path

import pytest

from ringblk.engine.frontend.request import BackendGone
from tests.crash.crash_plan import CrashPlan
from tests.crash.walk_choice import one_of
from tests.rigs.engine_rig import eventually
from tests.rigs.many_drives import STARTED, ManyDrives
from tests.rigs.process_tree import processes_with, wait_none_with

BLOCK = b"w" * 4096
BEGINNING = (
    "supervisor: zygote asked",
    "supervisor: child forked",
    "supervisor: set-up message sent",
    "control plane: configuration sent",
)
CHANGING = ("supervisor: zygote asked", "supervisor: child forked", "supervisor: child reaped")
UPGRADING = ("control plane: about to be upgraded", "control plane: zygote left", "control plane: upgraded")
OF_THE_ZYGOTE = ("control plane: death seen", "control plane: supervisor started")


@pytest.fixture
def plan(tmp_path: Path) -> CrashPlan:
    return CrashPlan(tmp_path / "plan")


@pytest.fixture
def engine(plan: CrashPlan) -> Iterator[ManyDrives]:
    with ManyDrives({"vm1": {}, "vm2": {}}, plan=plan.path) as engine:
        yield engine


def wait_serving(engine: ManyDrives, *names: str) -> None:
    """Wait until some control plane serves these drives, and see that they work."""

    def serves() -> bool:
        try:
            drives = engine.control.get("/drives")["drives"]
        except (OSError, ValueError, KeyError):
            return False  # it has died, or the next one does not listen yet
        return {name: drive["state"]["state"] for name, drive in drives.items()} == dict.fromkeys(
            names, "running"
        )

    eventually(serves, f"{names} running: {engine.log()}")

    def works(name: str) -> bool:
        try:
            with engine.frontend(name) as disk:
                disk.write(0, BLOCK)
                return disk.read(0, 4096) == BLOCK
        except BackendGone:
            return False  # so it has

    for name in names:
        eventually(lambda: works(name), f"{name} works")  # noqa: B023


def end(engine: ManyDrives) -> None:
    """Tell whoever runs to end, and see that nothing is left."""
    eventually(engine.find_control_plane, "its control API")
    os.kill(engine.pid, signal.SIGTERM)
    wait_none_with(engine.mark)
    assert "Traceback" not in engine.log(), engine.log()
    assert list(engine.folder.glob("*.sock")) == []


@pytest.mark.parametrize("points", [BEGINNING, *[(point, point) for point in one_of(BEGINNING, "twice")]])
def test_those_that_die_while_they_begin(plan: CrashPlan, points: Sequence[str]) -> None:
    """Each comes to a point further on than the one before it, or dies where that did."""
    plan.arm(*[(point, 1) for point in points])
    with ManyDrives({"vm1": {}, "vm2": {}}, plan=plan.path) as engine:
        wait_serving(engine, "vm1", "vm2")
        assert plan.deaths == len(points)
        assert engine.log().count(STARTED) == len(points)
        end(engine)


def test_those_that_die_while_drives_come_and_go(engine: ManyDrives, plan: CrashPlan) -> None:
    """Who asked is not answered; the drive is there or it is not, and can be had or removed then."""
    wait_serving(engine, "vm1", "vm2")
    for point in CHANGING:
        plan.arm((point, 1))
        deaths = engine.log().count(STARTED)
        for ask in (lambda: engine.put("vm3"), lambda: engine.delete("vm2")):
            if not plan.deaths:
                try:
                    ask()
                except (OSError, ValueError):
                    break
        eventually(lambda: plan.deaths == 1, point)
        eventually(lambda: engine.log().count(STARTED) > deaths, "another control plane")  # noqa: B023
        eventually(engine.find_control_plane, "its control API")
        for ask in (lambda: engine.put("vm3"), lambda: engine.delete("vm2")):
            assert ask()[0] in (200, 201, 204, 404)
        wait_serving(engine, "vm1", "vm3")
        assert engine.delete("vm3")[0] == 204
        assert engine.put("vm2")[0] == 201
    end(engine)


def test_one_that_dies_before_a_change_is_noted(engine: ManyDrives, plan: CrashPlan) -> None:
    """Limits that were set and not answered: what holds is what the next control plane says."""
    wait_serving(engine, "vm1", "vm2")
    eventually(engine.find_control_plane, "its control API")
    with engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        engine.control.change("/drives/vm1", bps_read=1 << 30)
        before = engine.control.get("/drives/vm1")
        plan.arm(("control plane: limits set", 1))
        with pytest.raises((OSError, HTTPException)):
            engine.control.change("/drives/vm1", iops=1, bps_read=None)
        engine.wait_restarted(1)
        after = engine.control.get("/drives/vm1")
        assert after["state"]["limits"] == before["state"]["limits"] == ["bytes_read"]
        assert (after["iops"], after["bps_read"]) == (before["iops"], before["bps_read"])
        for _ in range(20):  # in no time, where once a second would be allowed
            disk.write(0, BLOCK)
        engine.control.change("/drives/vm1", bps_read=None)
        assert engine.control.get("/drives/vm1")["state"]["limits"] == []
    end(engine)


@pytest.mark.parametrize("point", UPGRADING)
def test_one_that_dies_while_it_is_upgraded(engine: ManyDrives, plan: CrashPlan, point: str) -> None:
    """Its zygote starts another, or has left already: then the guest goes on until an engine is started."""
    wait_serving(engine, "vm1", "vm2")
    eventually(engine.find_control_plane, "its control API")
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(engine.frontend("vm1"))
        disk.write(0, BLOCK)
        plan.arm((point, 1))
        with contextlib.suppress(OSError, HTTPException):
            engine.control.ask("POST", "/upgrade")
        eventually(lambda: plan.deaths == 1, point)
        disk.write(4096, BLOCK)
        following = engine
        if point == UPGRADING[0]:
            engine.wait_restarted(1)
        else:
            engine.process.wait()
            drives: dict[str, dict[str, object]] = {"vm1": {}, "vm2": {}}
            following = stack.enter_context(ManyDrives(drives, after=engine, plan=plan.path))
            eventually(following.find_control_plane, "the next engine")
        assert disk.read(0, 8192) == BLOCK * 2
        disk.close()
        end(following)


@pytest.mark.parametrize("point", OF_THE_ZYGOTE)
def test_a_zygote_that_dies_while_it_starts_another(engine: ManyDrives, plan: CrashPlan, point: str) -> None:
    """Nobody is left, or the one that it has just started goes on without it."""
    wait_serving(engine, "vm1", "vm2")
    eventually(engine.find_control_plane, "its control API")
    plan.arm((point, 1))
    os.kill(engine.pid, signal.SIGKILL)
    eventually(lambda: plan.deaths == 1, point)
    if point == "control plane: death seen":
        wait_none_with(engine.mark)
        return
    wait_serving(engine, "vm1", "vm2")
    end(engine)


def test_one_that_dies_at_its_end(engine: ManyDrives, plan: CrashPlan) -> None:
    """It has said that no other is to come."""
    wait_serving(engine, "vm1", "vm2")
    eventually(engine.find_control_plane, "its control API")
    plan.arm(("control plane: leave taken", 1))
    os.kill(engine.pid, signal.SIGTERM)
    wait_none_with(engine.mark)
    assert plan.deaths == 1
    assert STARTED not in engine.log()


def test_one_that_is_started_again_dies_at_once(engine: ManyDrives, plan: CrashPlan) -> None:
    wait_serving(engine, "vm1", "vm2")
    eventually(engine.find_control_plane, "its control API")
    plan.arm(("control plane: started again", 1), ("control plane: configuration kept", 1))
    os.kill(engine.pid, signal.SIGKILL)
    eventually(lambda: plan.deaths == 2, "the zygote's death when it is sent the configuration")
    wait_serving(engine, "vm1", "vm2")
    assert engine.log().count(STARTED) == 2
    assert len(processes_with(engine.mark)) > 2
    end(engine)
