"""A kill storm over many drives of one engine, every byte verified.

Fault model: SIGKILL of any dispatcher, any worker and the zygote, at any moment of the loads of all drives,
again and again; the control plane lives. After each kill the drive has to do requests before the next, so
that no limit on restarts ends it. Which processes die is drawn from a seed; when they die is not.
"""

import random
import threading

from tests.rigs.control_client import kill_and_reap
from tests.rigs.engine_rig import eventually
from tests.rigs.io_engines import of_this_build
from tests.rigs.many_drives import DISK_BYTES, ManyDrives
from tests.rigs.process_tree import zygotes_of
from tests.stress.counts import counts

BLOCK_BYTES = 4096
BLOCKS = DISK_BYTES // BLOCK_BYTES


class StormLoad(threading.Thread):
    """Writes and reads blocks of one drive; each block's content tells the drive, its place and when."""

    def __init__(self, engine: ManyDrives, name: str, seed: int) -> None:
        super().__init__()
        self.name = name
        self._disk = engine.frontend(name)
        self._random = random.Random(f"{seed} {name}")
        self._written = dict.fromkeys(range(BLOCKS), bytes(BLOCK_BYTES))
        self._is_over = threading.Event()
        self.done_count = 0
        self.faults: list[str] = []

    def run(self) -> None:
        try:
            while not self._is_over.is_set() and not self.faults:
                self._write_and_read()
                self.done_count += 1
            for block in range(BLOCKS):
                self._check(block)
        except Exception as error:
            self.faults.append(f"{self.name}: {error!r}")

    def _write_and_read(self) -> None:
        block = self._random.randrange(BLOCKS)
        data = f"{self.name} {block} {self.done_count} ".encode().ljust(32, b".") * (BLOCK_BYTES // 32)
        self._disk.write(block * BLOCK_BYTES, data)
        self._written[block] = data
        self._check(self._random.randrange(BLOCKS))

    def _check(self, block: int) -> None:
        found = self._disk.read(block * BLOCK_BYTES, BLOCK_BYTES)
        if found != self._written[block]:
            self.faults.append(
                f"{self.name}: block {block} is {found[:32]!r}, not {self._written[block][:32]!r}"
            )

    def end(self) -> bytes:
        """Stop, verify all blocks; what the image is to be."""
        self._is_over.set()
        self.join()
        self._disk.close()
        return b"".join(self._written[block] for block in range(BLOCKS))


def storm_over_drives(drive_count: int, kill_count: int, seed: int) -> None:
    """So many kills over so many drives; half of them carry out requests in workers."""
    drawn = random.Random(seed)
    engines = of_this_build("psync", "io_uring_inline")
    drives = {
        f"vm{index}": {"workers": 1 + index % 2, "io_engine": engines[index % len(engines)]}
        for index in range(drive_count)
    }
    with ManyDrives(drives) as engine:
        loads = {name: StormLoad(engine, name, seed) for name in drives}
        for load in loads.values():
            load.start()
        try:
            for _ in range(kill_count):
                _kill_one(engine, loads, drawn)
                counts["rules"] += 1
        finally:
            images = {name: load.end() for name, load in loads.items()}
        assert [fault for load in loads.values() for fault in load.faults] == []
        assert engine.end() == 0
        for name, content in images.items():
            assert engine.image(name).read_bytes() == content, name
        assert engine.segments() == []


def _kill_one(engine: ManyDrives, loads: dict[str, StormLoad], drawn: random.Random) -> None:
    """Kill one process, and return when its drive, or any where it was the zygote, goes on."""
    load = loads[drawn.choice(sorted(loads))]
    kind = drawn.choice(("dispatcher", "dispatcher", "worker", "worker", "zygote"))
    if kind == "zygote":
        for pid in zygotes_of(engine.process.pid):
            kill_and_reap(pid)
    elif kind == "dispatcher":
        engine.kill_dispatcher(load.name)
    else:
        workers = [worker.pid for worker in engine.snapshots()[load.name].workers if worker.pid]
        for pid in workers[:1]:
            kill_and_reap(pid)
    wanted = load.done_count + 3
    eventually(lambda: load.done_count >= wanted or load.faults, f"{load.name} goes on")
    assert load.faults == []
