"""scripts/bench_layers: what layers of copy-on-write drives cost.

Reads of a chain of many layers beside those of one layer, of the base alone and of a raw file; the
longest time between two completions while a snapshot is taken, beside as long a time in which none is; a
reset, and a PUT of a clone beside the PUT of a raw file. Whatever is compared takes turns.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.load.generator import generate_load
from ringblk.engine.load.load import Load
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.backends.overlay_changes import OverlayChanger
from tests.bench.report import Machine, machine
from tests.rigs.many_drives import ManyDrives

_DRIVE_BYTES = 256 << 20
_BASE_BYTES = 100 << 30
_BLOCK_BYTES = 4096
_DEPTH = 32
_WINDOW_S = 0.3
_PIECE_BYTES = 1 << 20
_PROGRAM = (sys.executable, "-P", "-m", "ringblk", "serve")
"""As users have it: a drive at rest has no workers."""


class Figure(msgspec.Struct, frozen=True):
    """One thing that was measured, some times."""

    what: str
    unit: str
    median: float
    best: float
    worst: float


class Report(msgspec.Struct):
    """What is printed as JSON."""

    machine: Machine
    arguments: list[str]
    figures: list[Figure] = []

    def add(self, what: str, unit: str, values: list[float]) -> None:
        """Note it, and print a line."""
        best, worst = (max(values), min(values)) if unit == "IOPS" else (min(values), max(values))
        figure = Figure(what, unit, statistics.median(values), best, worst)
        self.figures.append(figure)
        print(f"{what:<44} {figure.median:>10.1f} {unit:<5} (best {best:.1f}, worst {worst:.1f})")


def make_layers(base: Path, folder: Path, layer_count: int) -> None:
    """An overlay whose blocks are all in its layers, those of each here and there."""
    backend = OverlayBackend(base, folder)
    backend.image_lock().lock()
    changer = OverlayChanger(backend, "auto")
    chance = random.Random(1)
    pieces = list(range(0, _DRIVE_BYTES, _PIECE_BYTES))
    chance.shuffle(pieces)
    data = chance.randbytes(_PIECE_BYTES)
    for number in range(layer_count):
        for offset in pieces[number::layer_count]:
            backend.write_at(offset, data)
        if number + 1 < layer_count:
            changer.settle()
            change = changer.seal(f"number {number}")
            changer.write(change.chain)
            backend.use(change.found, change.fds)
    changer.settle()
    backend.close()


def measure_reads(report: Report, folder: Path, layer_count: int, rounds: int) -> None:
    """Reads that find their blocks in one layer, in many, in the base, in a raw file."""
    base = folder / "base"
    with base.open("wb") as file:
        for _ in range(_DRIVE_BYTES // _PIECE_BYTES):
            file.write(os.urandom(_PIECE_BYTES))
    raw = folder / "raw"
    shutil.copyfile(base, raw)
    counts = {"one layer": 1, f"{layer_count} layers": layer_count}
    for name, count in counts.items():
        make_layers(base, folder / name, count)
    settings: dict[str, dict[str, object]] = {
        "raw": {"blk_file": str(raw)},
        "base": {"base": str(base), "overlay": str(folder / "empty")},
        **{name: {"base": str(base), "overlay": str(folder / name)} for name in counts},
    }
    load = Load(depth=_DEPTH)
    found: dict[str, list[float]] = {name: [] for name in settings}
    with ManyDrives(
        {name.replace(" ", "-"): each for name, each in settings.items()}, program=_PROGRAM
    ) as engine:
        for _ in range(rounds):
            for name in settings:
                with engine.frontend(name.replace(" ", "-"), memory_size_bytes=load.memory_bytes) as disk:
                    found[name].append(generate_load(disk, load, seconds=1.0, warm_up_s=0.3).iops)
        for name, each in found.items():
            report.add(f"random reads of 4 KiB, depth {_DEPTH}: {name}", "IOPS", each)


class Writer:
    """Keeps writes in flight, and notes the longest time between two completions."""

    def __init__(self, disk: Frontend) -> None:
        self._disk = disk
        self._chance = random.Random(1)
        for _ in range(_DEPTH):
            self._submit(disk.allocate(_BLOCK_BYTES, _BLOCK_BYTES))
        disk.submit()

    def _submit(self, buffer: object) -> None:
        self._disk.submit_write(self._chance.randrange(_DRIVE_BYTES // _BLOCK_BYTES) * _BLOCK_BYTES, buffer)  # type: ignore[arg-type]

    def run_until(self, is_over: Callable[[], bool]) -> float:
        """The longest gap, in milliseconds."""
        longest_s, last_s = 0.0, time.perf_counter()
        while not is_over():
            completions = self._disk.poll(1, 0.05)
            if completions:
                now_s = time.perf_counter()
                longest_s, last_s = max(longest_s, now_s - last_s), now_s
            for completion in completions:
                self._submit(completion.buffer)
            self._disk.submit()
        return longest_s * 1000

    def run_for(self, seconds: float) -> float:
        """The same for some time."""
        end_s = time.perf_counter() + seconds
        return self.run_until(lambda: time.perf_counter() > end_s)

    def drain(self) -> None:
        """Wait for what is in flight."""
        left = _DEPTH
        while left:
            left -= len(self._disk.poll(1, 1.0))


def measure_snapshots(report: Report, folder: Path, rounds: int) -> None:
    """Gaps while a snapshot is taken and while none is, in turn; then resets."""
    base = folder / "small base"
    with base.open("wb") as file:
        file.truncate(_DRIVE_BYTES)
    settings = {"vm": {"base": str(base), "overlay": str(folder / "vm")}}
    with ManyDrives(settings, program=_PROGRAM) as engine:
        with engine.frontend("vm", memory_size_bytes=4 << 20, queue_size=2 * _DEPTH) as disk:
            writer = Writer(disk)
            writer.run_for(2.0)
            quiet, taken, took_ms = [], [], []
            for number in range(rounds):
                quiet.append(writer.run_for(_WINDOW_S))
                with asking(engine.control, "/drives/vm/snapshots", {"name": f"number {number}"}) as ask:
                    gap_ms = writer.run_until(ask.is_done)
                took_ms.append(ask.took_ms)
                taken.append(max(gap_ms, writer.run_for(_WINDOW_S)))
            writer.drain()
        report.add("longest gap, no snapshot", "ms", quiet)
        report.add("longest gap, a snapshot is taken", "ms", taken)
        report.add("a snapshot, until it is on the disk", "ms", took_ms)
        asked_ms, reset_ms = [], []
        body = {"snapshot": f"number {rounds - 1}"}
        for _ in range(rounds):
            asked_ms.append(timed(lambda: engine.control.get("/drives/vm")))
            reset_ms.append(timed(lambda: engine.control.ask("POST", "/drives/vm/reset", body)))
        report.add("GET of a drive", "ms", asked_ms)
        report.add("reset to a snapshot", "ms", reset_ms)


class Asking:
    """A request of the control API in a thread."""

    def __init__(self, control: object, path: str, body: object) -> None:
        self.took_ms = 0.0
        self._thread = threading.Thread(target=self._ask, args=(control, path, body))
        self._thread.start()

    def _ask(self, control: object, path: str, body: object) -> None:
        self.took_ms = timed(lambda: control.ask("POST", path, body))  # type: ignore[attr-defined]

    def is_done(self) -> bool:
        """Whether it was answered."""
        return not self._thread.is_alive()


@contextmanager
def asking(control: object, path: str, body: object) -> Iterator[Asking]:
    """Ask meanwhile."""
    yield Asking(control, path, body)


def timed(call: Callable[[], object]) -> float:
    """How long a call takes, in milliseconds."""
    begin_s = time.perf_counter()
    call()
    return (time.perf_counter() - begin_s) * 1000


def measure_clones(report: Report, folder: Path, rounds: int) -> None:
    """PUT of a clone of a large base, beside that of a raw file as large."""
    base = folder / "large base"
    with base.open("wb") as file:
        file.truncate(_BASE_BYTES)
    with ManyDrives({}, program=_PROGRAM) as engine:
        raw_ms, clone_ms = [], []
        for number in range(rounds):
            raw = folder / f"raw {number}"
            with raw.open("wb") as file:
                file.truncate(_BASE_BYTES)
            raw_ms.append(timed(lambda number=number, raw=raw: engine.put(f"raw{number}", blk_file=str(raw))))  # type: ignore[misc]
            overlay = folder / f"clone {number}"
            clone_ms.append(
                timed(
                    lambda number=number, overlay=overlay: engine.put(  # type: ignore[misc]
                        f"clone{number}", base=str(base), overlay=str(overlay)
                    )
                )
            )
        report.add("the engine's first PUT of a clone", "ms", clone_ms[:1])
        report.add("PUT of a raw file of 100 GiB", "ms", raw_ms[1:])
        report.add("PUT of a clone of a base of 100 GiB", "ms", clone_ms[1:])
        report.add(f"{rounds - 1} clones, one after the other", "ms", [sum(clone_ms[1:])])
    files = [each.stat() for each in (folder / "clone 0").iterdir()]
    report.add("a new clone on the disk", "KiB", [sum(each.st_blocks for each in files) / 2])


def main() -> None:
    """Measure, print lines and JSON."""
    parser = argparse.ArgumentParser(prog="bench_layers", description=__doc__)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"), help="a folder for the drives")
    parser.add_argument("--layers", type=int, default=500, help="of the long chain")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    report = Report(machine(), sys.argv[1:])
    with tempfile.TemporaryDirectory(dir=arguments.place, prefix="ringblk-bench-") as place:
        folder = Path(place)
        measure_snapshots(report, folder, arguments.rounds)
        measure_clones(report, folder, 2 * arguments.rounds + 1)
        measure_reads(report, folder, arguments.layers, arguments.rounds)
    print(msgspec.json.encode(report).decode())


if __name__ == "__main__":
    main()
