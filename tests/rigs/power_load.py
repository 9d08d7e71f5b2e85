"""A load on an overlay that says when each of its operations began and ended, and what may be there after it.

Run as a program it is the load, in processes that share the overlay as those of a drive do, in the build with
a recorder. It writes to some blocks only, which are watched: near the borders of the map's words, units and
pages, and at the drive's end.
"""

import os
import random
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ringblk.engine.crashes.history import NEVER, SECTOR_BYTES, first_flush_after
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.layers.form import BLOCK_BYTES
from tests.rigs.power_failure import recording_build
from tests.rigs.separate_build import ROOT

_STAMP = struct.Struct("<QQ")
BASE_STAMP = 1 << 40
BORDERS = (0, 31, 2015, 16383)
"""Blocks before the borders of a word, a unit, a page of the map."""
WATCHED_AROUND = 8


class Operation(msgspec.Struct):
    """One operation, and when it began and ended; a flush has no range."""

    kind: str
    offset: int = 0
    length: int = 0
    stamp: int = 0
    began: int = 0
    ended: int = NEVER
    flushed: int = NEVER
    """When it was there for good."""


class Load(msgspec.Struct):
    """What to do."""

    base: str
    overlay: str
    seed: int
    count: int
    process_count: int = 1
    flushes: float = 0.2
    wide_discards: float = 0.0
    """How often much of the drive is discarded; of one process alone."""
    watched_stride: int = 0
    """Each so many blocks one is written to, beside those at borders; 0: there are no others."""


def watched_blocks(size_bytes: int, watched_stride: int) -> list[int]:
    """The blocks that a load writes to."""
    count = -(-size_bytes // BLOCK_BYTES)
    near = {border + step for border in (*BORDERS, count - 4) for step in range(WATCHED_AROUND)}
    return sorted(
        {block for block in near if 0 <= block < count} | {*range(0, count, watched_stride or count)}
    )


def sector_content(stamp: int, sector: int) -> bytes:
    """A sector as the write with this stamp leaves it; of zeroes the stamp is 0."""
    return bytes(SECTOR_BYTES) if stamp == 0 else _STAMP.pack(stamp, sector) * (SECTOR_BYTES // _STAMP.size)


def make_base(path: Path, base_bytes: int, size_bytes: int, watched_stride: int) -> None:
    """A base of a drive of `size_bytes`, in which each watched sector can be told from all others."""
    with path.open("wb") as file:
        file.truncate(base_bytes)
        for block in watched_blocks(size_bytes, watched_stride):
            for sector in range(block * 8, min(block * 8 + 8, base_bytes // SECTOR_BYTES)):
                os.pwrite(file.fileno(), sector_content(BASE_STAMP, sector), sector * SECTOR_BYTES)


def run_load(load: Load, record: Path) -> list[list[Operation]]:
    """Run a load to its end in the recording build; what each process did."""
    environment = {**os.environ, "PYTHONPATH": str(recording_build()), "RINGBLK_RECORD": str(record)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.rigs.power_load", msgspec.json.encode(load).decode()],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return [msgspec.json.decode(line, type=list[Operation]) for line in done.stdout.splitlines()]


def possible_stamps(operations: Sequence[Operation], cut: int, before: int) -> set[int]:
    """What a sector may hold where power failed at `cut`; `before` is what it held at first.

    `operations` are those that change it, each after the one before it.
    """
    possible = {before}
    for operation in operations:
        if operation.began >= cut:
            break
        possible = {operation.stamp} if operation.flushed <= cut else {*possible, operation.stamp}
    return possible


class Expectation:
    """What a drive may hold after a load that a power failure has ended."""

    def __init__(
        self,
        size_bytes: int,
        operations: Sequence[Sequence[Operation]],
        before: dict[int, int],
        watched_stride: int,
    ) -> None:
        """`before` has the stamps that sectors had at the beginning, the base's where it has none."""
        flat = sorted((each for of_one in operations for each in of_one), key=lambda each: each.began)
        spans = [(each.began, each.ended) for each in flat if each.kind == "flush"]
        for operation, at in zip(flat, first_flush_after([each.ended for each in flat], spans), strict=True):
            operation.flushed = min(at, operation.ended if operation.kind == "write durably" else NEVER)
        self.before = before
        self.of_sector: dict[int, list[Operation]] = {
            sector: []
            for block in watched_blocks(size_bytes, watched_stride)
            for sector in range(block * 8, min(block * 8 + 8, size_bytes // SECTOR_BYTES))
        }
        for operation in flat:
            first, end = (
                operation.offset // SECTOR_BYTES,
                (operation.offset + operation.length) // SECTOR_BYTES,
            )
            if end - first < len(self.of_sector):
                changed = [sector for sector in range(first, end) if sector in self.of_sector]
            else:
                changed = [sector for sector in self.of_sector if first <= sector < end]
            for sector in changed:  # none of a flush
                self.of_sector[sector].append(operation)

    def check(self, backend: OverlayBackend, cut: int) -> dict[int, int]:
        """Read all watched sectors; what each held. Raises `AssertionError`."""
        found: dict[int, int] = {}
        for sector, operations in self.of_sector.items():
            buffer = bytearray(SECTOR_BYTES)
            backend.read_at(sector * SECTOR_BYTES, buffer)
            stamp = _STAMP.unpack_from(buffer)[0]
            before = self.before.get(sector, BASE_STAMP)
            possible = possible_stamps(operations, cut, before)
            assert stamp in possible, (
                f"sector {sector} at {cut} holds write {stamp}, not one of {sorted(possible)}"
            )
            assert buffer == sector_content(stamp, sector), f"sector {sector} is torn (write {stamp})"
            found[sector] = stamp
        return found


def _operation(
    load: Load, blocks: Sequence[int], size_bytes: int, stamp: int, chance: random.Random
) -> Operation:
    """The next thing to do, within runs of the blocks that are this process's."""
    if chance.random() < load.flushes:
        return Operation("flush")
    if chance.random() < load.wide_discards:
        offset = chance.choice(blocks) * BLOCK_BYTES
        return Operation("discard", offset, chance.randrange(1, 40000) * BLOCK_BYTES)
    place = chance.randrange(len(blocks))
    last = place
    while last + 1 < len(blocks) and blocks[last + 1] == blocks[last] + 1 and chance.random() < 0.4:
        last += 1
    offset, end = blocks[place] * BLOCK_BYTES, (blocks[last] + 1) * BLOCK_BYTES
    kind = chance.choice(["write"] * 8 + ["write durably", "zero", "discard"])
    if kind != "discard" and chance.random() < 0.5:
        offset = min(offset + chance.randrange(8) * SECTOR_BYTES, size_bytes - SECTOR_BYTES)
        end = max(offset + SECTOR_BYTES, end - chance.randrange(8) * SECTOR_BYTES)
    return Operation(kind, offset, end - offset, stamp if kind.startswith("write") else 0)


def carry_out(backend: OverlayBackend, operation: Operation) -> None:
    offset, length = operation.offset, operation.length
    match operation.kind:
        case "flush":
            backend.flush()
        case "discard":
            backend.discard(offset, length)
        case "zero":
            backend.write_zeroes(offset, length, may_unmap=bool(operation.offset & BLOCK_BYTES))
        case _:
            sectors = range(offset // SECTOR_BYTES, (offset + length) // SECTOR_BYTES)
            content = b"".join(sector_content(operation.stamp, sector) for sector in sectors)
            backend.write_at(offset, content, durable=operation.kind == "write durably")


def _run(load: Load, backend: OverlayBackend, process: int, record_fd: int) -> list[Operation]:
    chance = random.Random(load.seed * 100 + process)
    blocks = watched_blocks(backend.size_bytes, load.watched_stride)[process :: load.process_count]
    done = []
    for index in range(load.count):
        stamp = load.seed << 24 | process << 20 | (index + 1)
        operation = _operation(load, blocks, backend.size_bytes, stamp, chance)
        operation.length = min(operation.length, backend.size_bytes - operation.offset)
        operation.began = os.fstat(record_fd).st_size
        carry_out(backend, operation)
        operation.ended = os.fstat(record_fd).st_size
        if load.process_count > 1:  # a flush of another process that began at this moment need not cover it
            operation.ended = max(operation.ended, operation.began + 1)
        done.append(operation)
    return done


def main() -> None:
    """Be the load that the command line describes."""
    load = msgspec.json.decode(sys.argv[1], type=Load)
    record_fd = os.open(os.environ["RINGBLK_RECORD"], os.O_RDONLY)
    backend = OverlayBackend(load.base, load.overlay, direct="off")
    backend.image_lock().lock()
    for process in range(load.process_count):
        if os.fork() == 0:
            done = msgspec.json.encode(_run(load, backend, process, record_fd)) + b"\n"
            with open(f"{os.environ['RINGBLK_RECORD']}.{process}", "wb") as file:
                file.write(done)
            os._exit(0)
    statuses = [os.waitpid(-1, 0)[1] for _ in range(load.process_count)]
    assert not any(statuses), statuses
    for process in range(load.process_count):
        sys.stdout.write(Path(f"{os.environ['RINGBLK_RECORD']}.{process}").read_text())
    sys.stdout.flush()
    os._exit(0)  # without a clean end, which would save all


if __name__ == "__main__":
    main()
