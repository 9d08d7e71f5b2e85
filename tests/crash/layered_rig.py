"""A drive with an overlay whose layers change under a load while processes die; and what it may hold then."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ringblk import Frontend
from ringblk.engine.base.restart_limit import MAX_DEATHS
from ringblk.engine.frontend.request import BackendGone
from ringblk.workers.backends.image_lock import is_image_locked
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.layers.chain_form import Chain
from ringblk.workers.layers.overlay_folder import read_chain
from tests.crash.crash_build import crash_environment
from tests.crash.kept_rig import NUM_BLOCKS, KeptRig
from tests.rigs.crash_load import BLOCK_BYTES, Read, check_block, pattern

AT_A_START = "chain: left layer on the disk"
"""Reached where an engine finds a layer that was sealed and did not come to the disk."""
_BASE_STAMP = 1 << 40
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
        sectors = NUM_BLOCKS * BLOCK_BYTES // SECTOR_BYTES
        self.base.write_bytes(b"".join(pattern(_BASE_STAMP, sector) for sector in range(sectors)))
        settings: dict[str, Any] = {"base": str(self.base), "overlay": str(self.overlay)}
        self.rig = KeptRig(self.folder, first_stamp=_BASE_STAMP, blk_file=None, **settings)
        self.count = 0
        self.looks: dict[str, list[Read]] = {}
        self.size_bytes = NUM_BLOCKS * BLOCK_BYTES
        self.has_base = True
        self.dies_whole = False
        """Whether the engine ends when a process dies by the plan."""
        self.is_dead = False

    def ask_alone(self, path: str, body: object) -> None:
        """POST, whatever comes of it."""
        with contextlib.suppress(OSError, ValueError):
            self.rig.control.ask_raw("POST", f"/drives/kept/{path}", body)

    def ask(self, method: str, path: str, body: object = None) -> int:
        """Ask under load; 0 where the control plane has died meanwhile and another is there."""
        found: list[int] = []

        def ask() -> None:
            try:
                place = f"/drives/kept/{path}".rstrip("/")
                found.append(self.rig.control.ask_raw(method, place, body)[0])
            except (OSError, ValueError):
                found.append(0)

        thread = threading.Thread(target=ask)
        thread.start()
        while thread.is_alive() and not self._is_over():
            self.step()
        thread.join()
        if found[0] == 0:
            while not self._is_over() and self.snapshot_names() is None:
                self.step()
        return found[0]

    def step(self) -> None:
        """Some more of the load; nothing where all processes were to end, and have."""

        def step() -> None:
            try:
                self.rig.load.step()
            except BackendGone:
                if not self._is_over():
                    raise

        self.rig.go_on_where_drives_end(step)

    def _is_over(self) -> bool:
        """Whether all of its processes are dead, because one of them was to be and has died."""
        if self.dies_whole and self.rig.plan.deaths and not self.is_dead:
            self.is_dead = True
            self.rig.kill_all()
        return self.is_dead

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

    def reset(self, name: str) -> None:
        """Back to a snapshot, whatever dies; requests go on meanwhile."""
        former = self.chain().top
        returning = self.rig.load.begin_return([each.allowed for each in self.looks[name]])
        status = self.ask("POST", "reset", {"snapshot": name, "force": True})
        assert status in (0, 200), status
        is_done = self.chain().top != former
        assert is_done or status == 0
        self.rig.load.end_return(returning, is_done=is_done)

    def commit(self, name: str) -> None:
        """Into this snapshot, which is right below: it is as it was, or as the drive is."""
        former = self.layer_of(name)
        looks = self.rig.load.begin_look()
        status = self.ask("POST", "commit")
        self.rig.load.end_look(looks)
        assert status in (0, 200), status
        is_done = self.layer_of(name) != former
        assert is_done or status == 0
        if is_done:
            self.looks[name] = looks
        self.wait_merged()

    def flatten(self) -> None:
        """Until the drive lies on nothing."""
        while self.has_base and not self.is_dead:
            status = self.ask("POST", "flatten")
            assert status in (0, 200), status
            self.wait_merged()
            self.has_base = not list(self.chain().branch())[-1].has_no_base

    def grow(self) -> None:
        """By some blocks."""
        size_bytes = self.size_bytes + 5 * BLOCK_BYTES
        status = self.ask("PATCH", "", {"size_bytes": size_bytes})
        assert status in (0, 200), status
        self.size_bytes = self.chain().layers[self.chain().top].size_bytes
        assert self.size_bytes == size_bytes or status == 0
        self.wait_merged()

    def chain(self) -> Chain:
        """What it has on the disk; no change of it is under way."""
        folder_fd = os.open(self.overlay, os.O_RDONLY | os.O_DIRECTORY)
        try:
            chain = read_chain(folder_fd)
        finally:
            os.close(folder_fd)
        assert chain is not None
        return chain

    def layer_of(self, name: str) -> bytes:
        layer = self.chain().snapshot(name)
        assert layer is not None, name
        return layer.layer_id

    def wait_merged(self) -> None:
        """Go on with the load until nothing is to be merged."""
        while not self._is_over() and ((state := self.state()) is None or "job" in state):
            assert state is None or not state["job"]["error"], state
            self.step()

    def change_layers(self) -> None:
        """All that the points are of."""
        first = self.snapshot()
        self.snapshot()
        self.delete(first)
        self.wait_merged()

    def drain(self) -> None:
        """Until nothing is in flight."""
        while self.rig.load.inflight_count:
            self.rig.go_on_where_drives_end(self.rig.load.take)

    def check_snapshots(self) -> None:
        """Nothing runs any more: each snapshot that there is holds what it may."""
        for name, looks in self.looks.items():
            clone = self.folder / f"clone of {name}"
            if (data := read(self.overlay, clone, name)) is not None:
                for block, look in enumerate(looks):
                    place = block * BLOCK_BYTES
                    check_block(block, data[place : place + BLOCK_BYTES], look.allowed, name)

    def close(self) -> None:
        self.rig.close()


def read(base: Path | None, overlay: Path, snapshot: str | None) -> bytes | None:
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
    """Whether nobody has any of its layers: a process that was killed has its files for a moment yet."""
    for path in (overlay / "data", *overlay.glob("layer-*/data")):
        with path.open("r+b") as file:
            if is_image_locked(file.fileno()):
                return False
    return True


Begin: TypeAlias = Callable[[LayeredRig, Frontend], Callable[[], None]]
"""Prepares a change of layers, and returns what makes it."""


class SharedRig:
    """One engine for as many deaths as it bears."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._rig: LayeredRig | None = None

    def _take(self, *, is_new: bool = False) -> LayeredRig:
        """`is_new`: one that has no layer but its first."""
        rig, self._rig = self._rig, None
        if rig is not None and (is_new or rig.rig.deaths >= MAX_DEATHS or not rig.has_base):
            finish(rig)
            rig = None
        return rig or LayeredRig(self._factory)

    def die(self, point: str, passage: int, begin: Begin, *, is_new: bool = False) -> None:
        """A process dies in a change of layers; requests go on, and what it did is done or was not begun."""
        rig = self._take(is_new=is_new)
        try:
            with rig.rig.connect_to_next() as disk:
                rig.rig.run(disk, 20)
                change = begin(rig, disk)
                rig.rig.plan.arm((point, passage))
                change()
                assert rig.rig.plan.deaths == 1, f"nobody comes to {point}"
                rig.drain()
                rig.rig.run(disk)
            rig.rig.deaths += 1
        except BaseException:
            print(rig.rig.log)
            rig.close()
            raise
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
        data = read(rig.base if rig.has_base else None, rig.overlay, None)
        assert data is not None
        assert len(data) == rig.size_bytes
        assert not any(data[NUM_BLOCKS * BLOCK_BYTES :])
        rig.rig.load.check_bytes(data[: NUM_BLOCKS * BLOCK_BYTES])
        rig.check_snapshots()
    finally:
        rig.close()


def open_dies(rig: LayeredRig) -> bool:
    """Open the overlay in a process of its own, which dies by the plan or does not."""
    command = [sys.executable, "-c", _OPEN, str(rig.base), str(rig.overlay)]
    return subprocess.run(command, check=False, env=crash_environment(rig.rig.plan.path)).returncode < 0
