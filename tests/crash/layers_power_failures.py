"""Power failures while layers of a drive that runs are sealed and merged."""

import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from ringblk.crashes import RecordedFolder, Recording
from ringblk.engine.crashes.folder_copy import remove_folder
from ringblk.engine.crashes.history import SECTOR_BYTES
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.overlay import OverlayBackend
from tests.crash.engine_power_failures import BASE_BYTES, SIZE_BYTES, EngineLoad
from tests.crash.power_failures import leave_live_map, opened
from tests.rigs.many_drives import ManyDrives
from tests.rigs.power_load import Expectation, Operation, make_base


class LayersLoad:
    """Rounds of requests, and a change of layers after each few; what each snapshot has is known."""

    def __init__(self, engine: ManyDrives, load: EngineLoad, now: Callable[[], int]) -> None:
        self._engine = engine
        self._load = load
        self._now = now
        self.snapshots: dict[str, tuple[int, list[Operation]]] = {}
        """By name, with the moment at which it was answered and what was done by then."""
        self.deleted: dict[str, int] = {}
        """By name, with the moment at which that was asked for."""

    def run(self, rounds: int, chance: random.Random) -> None:
        """All of it."""
        for number in range(rounds):
            self._load.round()
            if number % 3 == 2:
                self._snapshot(f"number {number}")
            if number % 6 == 5:
                self._delete(chance.choice(list(self.snapshots.keys() - self.deleted.keys())))

    def _snapshot(self, name: str) -> None:
        began = self._now()
        assert self._engine.control.ask("POST", "/drives/vm1/snapshots", {"name": name})[0] == 201
        flush = Operation("flush")
        flush.began, flush.ended = began, self._now()
        done = [*self._load.done, flush]
        self.snapshots[name] = (flush.ended, msgspec.convert(msgspec.to_builtins(done), list[Operation]))

    def _delete(self, name: str) -> None:
        self.deleted[name] = self._now()
        path = f"/drives/vm1/snapshots/{name.replace(' ', '%20')}"
        assert self._engine.control.ask_raw("DELETE", path)[0] == 204
        while (job := self._engine.control.get("/drives/vm1")["state"].get("job")) is not None:
            assert not job["error"], job
            self._load.round()


def layers_power_failures(
    record: Callable[[Path], RecordedFolder], seed: int, rounds: int, states: int
) -> None:
    """Change layers under a load, then make states of the overlay and see that each may be."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        folder = Path(name)
        base, overlay = folder / "base", folder / "overlay"
        make_base(base, BASE_BYTES, SIZE_BYTES, 0)
        overlay.mkdir()
        settings = {"base": str(base), "overlay": str(overlay), "overlay_size": SIZE_BYTES}
        with record(overlay) as recorded, ManyDrives({"vm1": settings}) as engine:
            with engine.frontend("vm1", memory_size_bytes=64 << 20, queue_size=256) as disk:
                load = EngineLoad(disk, lambda: recorded.now, chance)
                layers = LayersLoad(engine, load, lambda: recorded.now)
                layers.run(rounds, chance)
            engine.end()
        before = dict.fromkeys(range(BASE_BYTES // SECTOR_BYTES, SIZE_BYTES // SECTOR_BYTES), 0)
        drive = Expectation(SIZE_BYTES, [load.done], before, 0)
        snapshots = {
            each: (ended, Expectation(SIZE_BYTES, [done], before, 0))
            for each, (ended, done) in layers.snapshots.items()
        }
        live = os.urandom(8192)
        for state in Recording.read(recorded.record).states(states, seed):
            after = folder / "after"
            remove_folder(after)
            state.make(after)
            for layer in (after, *after.glob("layer-*")):
                leave_live_map(layer, live, chance)
            with opened(base, after, SIZE_BYTES) as backend:
                drive.check(backend, state.cut)
            for each, (ended, expectation) in snapshots.items():
                if ended <= state.cut and state.cut < layers.deleted.get(each, state.cut + 1):
                    check_snapshot(after, folder / "clone", each, expectation, ended)
        remove_folder(recorded.record)


def check_snapshot(base: Path, clone: Path, name: str, expectation: Expectation, ended: int) -> None:
    """A snapshot that was answered has what had been done, and nothing else."""
    remove_folder(clone)
    try:
        backend = OverlayBackend(base, clone, snapshot=name, direct="off")
    except BackendError as error:
        raise AssertionError(f"snapshot {name} is gone: {error}") from error
    backend.image_lock().lock()
    try:
        expectation.check(backend, ended)
    finally:
        backend.close()
