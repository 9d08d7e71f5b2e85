"""Supervisor and zygote die: connected guests go on, and the next engine adopts their drives.

Fault model: SIGKILL of both at once, of the zygote alone, and of one after the other.
"""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.rigs.control_client import kill_and_reap, stop_process
from tests.rigs.engine_process import wait_gone
from tests.rigs.engine_rig import eventually
from tests.rigs.many_drives import ManyDrives
from tests.rigs.process_tree import remembers_dead, wait_none_with, zygotes_of

BLOCK = b"c" * 4096


@pytest.fixture
def engine() -> Iterator[ManyDrives]:
    with ManyDrives({"vm1": {}, "vm2": {}}) as engine:
        yield engine


def kill_both(engine: ManyDrives, *, zygote_first: bool) -> None:
    """SIGKILL of supervisor and zygote, neither of which sees the other die."""
    (zygote,) = zygotes_of(engine.pid)
    stop_process(engine.pid)
    stop_process(zygote)
    for pid in (zygote, engine.pid) if zygote_first else (engine.pid, zygote):
        os.kill(pid, signal.SIGKILL)
    engine.process.wait()
    wait_gone([engine.pid, zygote])


@pytest.mark.parametrize("zygote_first", [True, False])
def test_supervisor_and_zygote_die(engine: ManyDrives, zygote_first: bool) -> None:
    """Fault: SIGKILL of both at once. What serves nobody ends; the next engine finds what was set."""
    kill_both(engine, zygote_first=zygote_first)
    wait_none_with(engine.mark)
    with ManyDrives({"vm1": {}, "vm2": {}}, after=engine) as after:
        assert after.states() == {"vm1": "running", "vm2": "running"}
        after.end()


@pytest.mark.parametrize("io_engine", ["psync", "io_uring", "io_uring_inline"])
def test_guests_go_on_when_supervisor_and_zygote_die(io_engine: str) -> None:
    """Fault: SIGKILL of both while a front end has requests in flight; the next engine adopts its drive."""
    drives = {"vm1": {"io_engine": io_engine}, "vm2": {"io_engine": io_engine}}
    with ManyDrives(drives) as engine, engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        engine.control.change("/drives/vm1", iops=1 << 20)
        serving = engine.processes("vm1")
        kill_both(engine, zygote_first=False)
        disk.write(4096, BLOCK)  # nobody is there but its processes
        with ManyDrives(drives, after=engine) as after:
            assert serving <= after.processes("vm1")
            assert after.control.get("/drives/vm1")["iops"] == 1 << 20
            assert disk.read(0, 8192) == BLOCK * 2
            for pid in serving:  # of no zygote that could tell of their ends
                kill_and_reap(pid)
            assert disk.read(0, 8192) == BLOCK * 2
            eventually(lambda: not remembers_dead(after.pid), "the clearing away")
            disk.write(0, bytes(4096))
            after.kill_control_plane()  # started again by a zygote that has not forked the drive's processes
            assert disk.read(0, 8192) == bytes(4096) + BLOCK
            disk.close()
            after.end(signal.SIGTERM)
            assert "Traceback" not in after.log()
        wait_none_with(engine.mark)


def test_what_another_engine_left_is_left_to_it(engine: ManyDrives) -> None:
    """An engine whose drive has the same name, and nothing else, lets the other's guest alone."""
    with engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        kill_both(engine, zygote_first=True)
        with ManyDrives({"vm1": {}}) as other:
            assert other.states() == {"vm1": "running"}
            disk.write(4096, BLOCK)
            other.end()
        with ManyDrives({"vm1": {}, "vm2": {}}, after=engine) as after:
            assert disk.read(0, 8192) == BLOCK * 2
            assert after.processes("vm1")
            disk.close()
            after.end()


def test_a_drive_that_is_configured_anew_is_not_gone_on_with(engine: ManyDrives) -> None:
    with engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        serving = engine.processes("vm1")
        kill_both(engine, zygote_first=True)
        with ManyDrives({"vm1": {"workers": 2}}, after=engine) as after:
            wait_gone(list(serving))
            disk.reconnect()
            assert disk.read(0, 4096) == BLOCK
            disk.close()
            after.end()
    wait_none_with(engine.mark)


def test_nothing_stays_for_a_guest_that_is_gone(engine: ManyDrives) -> None:
    """Fault: SIGKILL of both, and no engine comes before the front end ends."""
    with engine.frontend("vm1", request_timeout_s=5) as disk:  # its end waits so long for an answer
        disk.write(0, BLOCK)
        kill_both(engine, zygote_first=True)
        disk.write(0, BLOCK)
        disk.request_timeout_s = 0.0  # it hangs up: nobody is there who answers
    wait_none_with(engine.mark)


def test_guests_go_on_when_the_zygote_dies(engine: ManyDrives) -> None:
    """Fault: SIGKILL of the zygote alone. Another comes; what serves a front end is not touched."""
    with engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        serving = engine.processes("vm1")
        (zygote,) = zygotes_of(engine.pid)
        kill_and_reap(zygote)
        assert disk.read(0, 4096) == BLOCK
        eventually(lambda: zygotes_of(engine.pid) not in ([], [zygote]), "another zygote")
        assert serving <= engine.processes("vm1")
        for pid in serving:  # it has not forked them, and sees their ends all the same
            kill_and_reap(pid)
        assert disk.read(0, 4096) == BLOCK
        assert not serving & engine.processes("vm1")
        eventually(lambda: not remembers_dead(engine.pid), "the clearing away")
        serving = engine.processes("vm1")
        (zygote,) = zygotes_of(engine.pid)
        kill_and_reap(zygote)
        assert disk.read(0, 4096) == BLOCK
        eventually(lambda: zygotes_of(engine.pid) not in ([], [zygote]), "another zygote")
        engine.kill_control_plane()
        for pid in serving:  # nor has the zygote that has started the next control plane
            kill_and_reap(pid)
        assert disk.read(0, 4096) == BLOCK
    assert "Traceback" not in engine.log()


def test_the_zygote_dies_first_and_its_successor_does_the_same(engine: ManyDrives) -> None:
    """Fault: SIGKILL of the zygote, then of the supervisor; and once more, where the zygote is the parent."""
    for _ in range(2):
        (zygote,) = zygotes_of(engine.pid)
        children = engine.children()
        kill_and_reap(zygote)
        eventually(lambda: len(engine.children() - children) >= 2, "successors")  # noqa: B023
        assert zygotes_of(engine.pid) != [zygote]
        engine.kill_control_plane()
        assert engine.states() == {"vm1": "running", "vm2": "running"}
    engine.end()
    assert "Traceback" not in engine.log()
