"""Power failures under a whole engine with an overlay, in its own processes and with io_uring."""

import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from ringblk import Frontend, engine_command
from ringblk.crashes import RecordedFolder, Recording
from ringblk.engine.crashes.folder_copy import remove_folder
from ringblk.engine.crashes.history import SECTOR_BYTES
from tests.crash.power_failures import MIB, leave_live_map, opened
from tests.rigs.power_load import Expectation, Operation, make_base, sector_content, watched_blocks

SIZE_BYTES = 70 * MIB
BASE_BYTES = 3 * MIB + 512
DEPTH = 8
BLOCK_SECTORS = 8


class EngineLoad:
    """Requests at once, each on blocks of its own, and flushes beside them, in rounds."""

    def __init__(self, disk: Frontend, now: Callable[[], int], chance: random.Random) -> None:
        self._disk = disk
        self._now = now
        self._chance = chance
        self._blocks = watched_blocks(SIZE_BYTES, 0)
        self._stamp = 0
        self.done: list[Operation] = []

    def round(self) -> None:
        """Begin all, then wait for all."""
        operations = [self._operation(block) for block in self._chance.sample(self._blocks, DEPTH)]
        if self._chance.random() < 0.4:
            operations.insert(self._chance.randrange(DEPTH), Operation("flush"))
        began = self._now()
        tokens = [self._begin(operation) for operation in operations]
        self._disk.submit()
        for operation, token in zip(operations, tokens, strict=True):
            completion = self._disk.wait(token, 30.0)
            assert completion.status == 0
            # A flush of the same round need not cover what changed the map alone: that is in no record.
            operation.began, operation.ended = began, max(self._now(), began + 1)
        self.done += operations

    def _operation(self, block: int) -> Operation:
        self._stamp += 1
        kind = self._chance.choice(["write"] * 6 + ["zero", "discard"])
        first, end = 0, BLOCK_SECTORS
        if kind != "discard" and self._chance.random() < 0.4:
            first = self._chance.randrange(BLOCK_SECTORS)
            end = self._chance.randint(first + 1, BLOCK_SECTORS)
        offset = block * BLOCK_SECTORS * SECTOR_BYTES + first * SECTOR_BYTES
        stamp = self._stamp if kind == "write" else 0
        return Operation(kind, offset, (end - first) * SECTOR_BYTES, stamp)

    def _begin(self, operation: Operation) -> int:
        disk, offset, length = self._disk, operation.offset, operation.length
        match operation.kind:
            case "flush":
                return disk.submit_flush()
            case "discard":
                return disk.submit_discard(offset, length)
            case "zero":
                return disk.submit_write_zeroes(offset, length)
        sectors = range(offset // SECTOR_BYTES, (offset + length) // SECTOR_BYTES)
        buffer = disk.allocate(length, 4096)
        buffer.view[:] = b"".join(sector_content(operation.stamp, sector) for sector in sectors)
        return disk.submit_write(offset, buffer)


def engine_power_failures(
    record: Callable[[Path], RecordedFolder], io_engine: str, seed: int, rounds: int, states: int
) -> None:
    """Load an engine, then make states of its overlay and see that each may be."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        folder = Path(name)
        base, overlay = folder / "base", folder / "overlay"
        make_base(base, BASE_BYTES, SIZE_BYTES, 0)
        overlay.mkdir()
        with record(overlay) as recorded:
            options = [f"--base={base}", f"--overlay={overlay}", f"--overlay-size={SIZE_BYTES}"]
            options += [f"--io-engine={io_engine}", "--workers=3"]
            with Frontend(engine_command(*options), queue_size=256) as disk:
                load = EngineLoad(disk, lambda: recorded.now, chance)
                for _ in range(rounds):
                    load.round()
        before = dict.fromkeys(range(BASE_BYTES // SECTOR_BYTES, SIZE_BYTES // SECTOR_BYTES), 0)
        expectation = Expectation(SIZE_BYTES, [load.done], before, 0)
        live = os.urandom(8192)
        for state in Recording.read(recorded.record).states(states, seed):
            remove_folder(folder / "after")
            state.make(folder / "after")
            leave_live_map(folder / "after", live, chance)
            with opened(base, folder / "after", SIZE_BYTES) as backend:
                expectation.check(backend, state.cut)
        remove_folder(recorded.record)
