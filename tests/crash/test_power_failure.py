"""An overlay after a power failure: each block is old or new, and what was flushed is there.

The fault model is in tests/rigs/power_failure.py. `scripts/power_failure` makes as many states as one likes.
"""

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.layers.folder import LIVE
from tests.rigs.power_failure import SECTOR_BYTES, Recording, copy_folder, remove_folder
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
        return
    content = bytearray(of_before if way == 1 else chance.randbytes(len(of_before)))
    content[16:32] = chance.randbytes(16)
    (overlay / LIVE).write_bytes(content)


def power_failures(load: Load, size_bytes: int, base_bytes: int, states: int, lives: int) -> None:
    """Make states of a load's disk, and see that each may be; begin anew with the last, `lives` times."""
    chance = random.Random(load.seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        folder = Path(name)
        load.base, load.overlay = str(folder / "base"), str(folder / "overlay")
        make_base(folder / "base", base_bytes, size_bytes)
        with opened(folder / "base", folder / "overlay", size_bytes):
            pass
        before = dict.fromkeys(range(base_bytes // SECTOR_BYTES, size_bytes // SECTOR_BYTES), 0)
        for life in range(lives):
            (folder / "overlay" / LIVE).unlink(missing_ok=True)
            remove_folder(folder / "before")
            copy_folder(folder / "overlay", folder / "before")
            inodes = {
                (folder / "overlay" / path.name).stat().st_ino: path for path in (folder / "before").iterdir()
            }
            load.seed += life
            operations = run_load(load, folder / "record")
            recording = Recording(folder / "record")
            recording.rename({inode: path.stat().st_ino for inode, path in inodes.items()})
            expectation = Expectation(size_bytes, operations, before)
            live = (folder / "overlay" / LIVE).read_bytes()
            times = recording.times()
            for _ in range(states):
                cut = chance.choice(times) + 1
                remove_folder(folder / "after")
                recording.leave(folder / "before", folder / "after", cut, chance)
                leave_live_map(folder / "after", live, chance)
                with opened(folder / "base", folder / "after") as backend:
                    found = expectation.check(backend, cut)
            remove_folder(folder / "overlay")
            os.rename(folder / "after", folder / "overlay")
            before = found
            (folder / "record").unlink()


@pytest.mark.parametrize("seed", range(3))
def test_one_process(seed: int) -> None:
    """The power fails under an overlay: no block is anything but old or new."""
    power_failures(Load("", "", seed + 1, 400), 70 * MIB + 512, 70 * MIB + 512, states=40, lives=2)


def test_processes_that_flush_at_once() -> None:
    power_failures(
        Load("", "", 11, 200, process_count=3, flushes=0.4), 70 * MIB, 3 * MIB + 512, states=60, lives=2
    )


def test_a_journal_that_comes_round() -> None:
    power_failures(Load("", "", 21, 3000, flushes=0.5), 40 * MIB, 40 * MIB, states=60, lives=1)


def test_more_changes_than_the_journal_holds() -> None:
    load = Load("", "", 31, 150, wide_discards=0.2)
    power_failures(load, 8192 * MIB, 8192 * MIB, states=30, lives=2)
