"""Power failures under a load on an overlay, many of them.

The fault model is in engine/crashes/history.py.
"""

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ringblk.engine.crashes.folder_copy import FolderCopy, remove_folder
from ringblk.engine.crashes.history import SECTOR_BYTES
from ringblk.engine.crashes.states import Recording
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.layers.folder import LIVE
from tests.rigs.power_load import Expectation, Load, make_base, run_load

MIB = 1 << 20


@contextlib.contextmanager
def opened(base: Path, overlay: Path, size_bytes: int | None = None) -> Iterator[OverlayBackend]:
    """The overlay, for as long as a test looks at it; nothing is saved by its end that was not before."""
    backend = OverlayBackend(base, overlay, size_bytes=size_bytes, direct="off")
    try:
        backend.image_lock().lock()
        yield backend
    finally:
        backend.close()


def leave_live_map(overlay: Path, of_before: bytes, chance: random.Random) -> None:
    """Whatever the disk has of the live map, it is of another boot."""
    way = chance.randrange(3)
    if way == 0:
        (overlay / LIVE).unlink(missing_ok=True)
        return
    content = bytearray(of_before if way == 1 else chance.randbytes(len(of_before)))
    content[16:32] = chance.randbytes(16)
    (overlay / LIVE).write_bytes(content)


def power_failures(
    load: Load, size_bytes: int, base_bytes: int, states: int, lives: int, from_part: float = 0.0
) -> None:
    """Make states of a load's disk, and see that each may be; begin anew with the last, `lives` times.

    `from_part` of the load is over when power fails.
    """
    chance = random.Random(load.seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        folder = Path(name)
        load.base, load.overlay = str(folder / "base"), str(folder / "overlay")
        make_base(folder / "base", base_bytes, size_bytes, load.watched_stride)
        with opened(folder / "base", folder / "overlay", size_bytes):
            pass
        before = dict.fromkeys(range(base_bytes // SECTOR_BYTES, size_bytes // SECTOR_BYTES), 0)
        for life in range(lives):
            (folder / "overlay" / LIVE).unlink(missing_ok=True)
            remove_folder(folder / "record")
            FolderCopy.make(folder / "overlay", folder / "record" / "before")
            load.seed += life
            operations = run_load(load, folder / "record" / "events")
            recording = Recording.read(folder / "record")
            expectation = Expectation(size_bytes, operations, before, load.watched_stride)
            live = (folder / "overlay" / LIVE).read_bytes()
            for state in recording.states(states, load.seed, from_part):
                remove_folder(folder / "after")
                state.make(folder / "after")
                leave_live_map(folder / "after", live, chance)
                with opened(folder / "base", folder / "after") as backend:
                    found = expectation.check(backend, state.cut)
            remove_folder(folder / "overlay")
            os.rename(folder / "after", folder / "overlay")
            before = found
