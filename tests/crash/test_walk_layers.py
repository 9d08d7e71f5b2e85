"""Layers are sealed and merged under a load, and a process dies at each step: nothing is lost.

Fault model: SIGKILL of the supervisor, the dispatcher or a worker at a crash point; of the whole engine,
when one of them has died there. The disk keeps what was written to it. What was asked for when a process
died was done or was not. A snapshot looks at each block at some time between the request and its answer.
"""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringblk.engine.base.restart_limit import MAX_DEATHS
from ringblk.workers.backends.image_lock import is_image_locked
from ringblk.workers.backends.overlay import OverlayBackend
from tests.crash.crash_build import crash_environment
from tests.crash.kept_rig import NUM_BLOCKS, KeptRig
from tests.crash.walk_choice import one_of, walk
from tests.crash.walk_points import CHAIN_POINTS
from tests.rigs.crash_load import BLOCK_BYTES, Read, check_block

AT_A_START = "chain: left layer on the disk"
"""Reached where an engine finds a layer that was sealed and did not come to the disk."""
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
_OPEN = """
import sys
from ringblk.workers.backends.overlay import OverlayBackend
OverlayBackend(sys.argv[1], sys.argv[2]).image_lock().lock()
"""


class LayeredRig:
    """A drive with an overlay, a load on it, and its snapshots with what each may hold."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self.folder = factory.mktemp("layers")
        self.overlay = self.folder / "overlay"
        self.base = self.folder / "base"
        self.base.write_bytes(bytes(NUM_BLOCKS * BLOCK_BYTES))
        self.rig = KeptRig(self.folder, blk_file=None, base=str(self.base), overlay=str(self.overlay))
        self.count = 0
        self.looks: dict[str, list[Read]] = {}

    def ask_alone(self, path: str, body: object) -> None:
        """POST, whatever comes of it."""
        with contextlib.suppress(OSError, ValueError):
            self.rig.control.ask_raw("POST", f"/drives/kept/{path}", body)

    def ask(self, method: str, path: str, body: object = None) -> int:
        """Ask under load; 0 where the control plane has died meanwhile and another is there."""
        found: list[int] = []

        def ask() -> None:
            try:
                found.append(self.rig.control.ask_raw(method, f"/drives/kept/{path}", body)[0])
            except (OSError, ValueError):
                found.append(0)

        thread = threading.Thread(target=ask)
        thread.start()
        while thread.is_alive():
            self.rig.load.step()
        if found[0] == 0:
            while self.snapshot_names() is None:
                self.rig.load.step()
        return found[0]

    def snapshot_names(self) -> list[str] | None:
        """The snapshots, which are fixed by then; None where no control plane serves the drive now."""
        try:
            return [each["name"] for each in self.rig.control.get("/drives/kept/snapshots")["snapshots"]]
        except (OSError, ValueError, AssertionError):
            return None

    def state(self) -> Any:
        """The drive's state; None where no control plane serves it now."""
        try:
            state = self.rig.control.get("/drives/kept")["state"]
        except (OSError, ValueError, AssertionError):
            return None
        return state if state["state"] == "running" else None

    def snapshot(self) -> str:
        """Take one, whatever dies; it may have been taken twice, with a name each."""
        while True:
            self.count += 1
            name = f"number {self.count}"
            looks = self.rig.load.begin_look()
            status = self.ask("POST", "snapshots", {"name": name})
            self.rig.load.end_look(looks)
            assert status in (0, 201), status
            self.looks[name] = looks
            if status == 201:
                return name

    def delete(self, name: str) -> None:
        assert self.ask("DELETE", f"snapshots/{name.replace(' ', '%20')}") in (0, 204, 404)
        del self.looks[name]

    def wait_merged(self) -> None:
        """Go on with the load until nothing is to be merged."""
        while (state := self.state()) is None or "job" in state:
            assert state is None or not state["job"]["error"], state
            self.rig.load.step()

    def change_layers(self) -> None:
        """All that the points are of."""
        first = self.snapshot()
        self.snapshot()
        self.delete(first)
        self.wait_merged()

    def drain(self) -> None:
        """Until nothing is in flight."""
        while self.rig.load.inflight_count:
            self.rig.load.take()

    def check_snapshots(self) -> None:
        """Nothing runs any more: each snapshot that there is holds what it may."""
        for name, looks in self.looks.items():
            if (data := read(self.overlay, self.folder / f"clone of {name}", name)) is not None:
                for block, look in enumerate(looks):
                    place = block * BLOCK_BYTES
                    check_block(block, data[place : place + BLOCK_BYTES], look.allowed, name)

    def close(self) -> None:
        self.rig.close()


def read(base: Path, overlay: Path, snapshot: str | None) -> bytes | None:
    """All of a drive, as a new engine has it; None where there is no such snapshot."""
    backend = None
    try:
        backend = OverlayBackend(base, overlay, snapshot=snapshot)
        backend.image_lock().lock()
        data = bytearray(backend.size_bytes)
        backend.read_at(0, data)
        return bytes(data)
    except Exception as error:
        if snapshot is not None and f"has no snapshot {snapshot}" in str(error):
            return None
        raise
    finally:
        if backend is not None:
            backend.close()


def is_free(overlay: Path) -> bool:
    """Whether nobody has it: a process that was killed has its files for a moment yet."""
    with (overlay / "data").open("r+b") as file:
        return not is_image_locked(file.fileno())


class SharedRig:
    """One engine for as many deaths as it bears."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._rig: LayeredRig | None = None

    def take(self) -> LayeredRig:
        rig, self._rig = self._rig, None
        if rig is not None and rig.rig.deaths >= MAX_DEATHS:
            finish(rig)
            rig = None
        return rig or LayeredRig(self._factory)

    def give_back(self, rig: LayeredRig) -> None:
        self._rig = rig

    def close(self) -> None:
        if self._rig is not None:
            finish(self._rig)


def finish(rig: LayeredRig) -> None:
    """Kill all, and look at every byte of the drive and of its snapshots."""
    rig.rig.plan.disarm()
    rig.rig.kill_all()
    try:
        rig.rig.wait(lambda: is_free(rig.overlay), "the last of its processes' end")
        data = read(rig.base, rig.overlay, None)
        assert data is not None
        rig.rig.load.check_bytes(data)
        rig.check_snapshots()
    finally:
        rig.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRig]:
    shared = SharedRig(tmp_path_factory)
    yield shared
    shared.close()


@pytest.mark.parametrize(("point", "passage"), walk(PASSAGES))
def test_a_process_dies_while_layers_change(shared: SharedRig, point: str, passage: int) -> None:
    """A process dies while layers change: what it did is done by the next, or was not begun."""
    rig = shared.take()
    try:
        with rig.rig.connect_to_next() as disk:
            rig.rig.run(disk, 20)
            rig.rig.plan.arm((point, passage))
            rig.change_layers()
            assert rig.rig.plan.deaths == 1, f"nobody comes to {point}"
            rig.drain()
            rig.rig.run(disk)
        rig.rig.deaths += 1
    except BaseException:
        print(rig.rig.log)
        rig.close()
        raise
    shared.give_back(rig)


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
            plan.arm((point, 1))
            looks = rig.rig.load.begin_look()
            asking = threading.Thread(target=rig.ask_alone, args=("snapshots", {"name": "last"}))
            asking.start()
            while plan.deaths == 0:
                rig.rig.load.step()
            rig.rig.kill_all()
            asking.join()
            rig.rig.load.end_look(looks)
            rig.looks["last"] = looks
            plan.arm((AT_A_START, 1))
            command = [sys.executable, "-c", _OPEN, str(rig.base), str(rig.overlay)]
            died = subprocess.run(command, check=False, env=crash_environment(plan.path)).returncode < 0
            assert died == (plan.deaths == 1) == (point in UNSETTLED_POINTS)
            finish(rig)
    except BaseException:
        print(rig.rig.log)
        rig.close()
        raise
