"""scripts/bench_layers: what layers of copy-on-write drives cost.

Reads of a chain of many layers beside those of one layer, of the base alone and of a raw file; the
longest time between two completions while a snapshot is taken, beside as long a time in which none is; a
reset, and a PUT of a clone beside the PUT of a raw file; first touches, rewrites and reads beside a raw
file's and beside qcow2; flushes, bytes written, memory. Whatever is compared takes turns.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from ringblk.engine.load.generator import generate_load
from ringblk.engine.load.load import Load
from tests.bench.layer_blocks import PROGRAM, fill, make_sparse, measure_again, measure_first_touch
from tests.bench.layer_chain import DRIVE_BYTES, make_layers
from tests.bench.layer_costs import (
    measure_bytes,
    measure_dirty_snapshots,
    measure_flushes,
    measure_memory,
)
from tests.bench.layer_figures import LayerReport
from tests.bench.layer_load import DEPTH, Writer, asking, timed
from tests.bench.report import machine
from tests.rigs.many_drives import ManyDrives

_BASE_BYTES = 100 << 30
_WINDOW_S = 0.3


def measure_reads(report: LayerReport, folder: Path, layer_count: int, rounds: int) -> None:
    """Reads that find their blocks in one layer, in many, in the base, in a raw file."""
    base = folder / "base"
    fill(base, DRIVE_BYTES)
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
    load = Load(depth=DEPTH)
    found: dict[str, list[float]] = {name: [] for name in settings}
    with ManyDrives(
        {name.replace(" ", "-"): each for name, each in settings.items()}, program=PROGRAM
    ) as engine:
        for _ in range(rounds):
            for name in settings:
                with engine.frontend(name.replace(" ", "-"), memory_size_bytes=load.memory_bytes) as disk:
                    found[name].append(generate_load(disk, load, seconds=1.0, warm_up_s=0.3).iops)
        for name, each in found.items():
            report.add(f"random reads of 4 KiB, depth {DEPTH}: {name}", "IOPS", each)


def measure_snapshots(report: LayerReport, folder: Path, rounds: int) -> None:
    """Gaps while a snapshot is taken and while none is, in turn; then resets."""
    base = folder / "small base"
    make_sparse(base, DRIVE_BYTES)
    settings = {"vm": {"base": str(base), "overlay": str(folder / "vm")}}
    with ManyDrives(settings, program=PROGRAM) as engine:
        with engine.frontend("vm", memory_size_bytes=4 << 20, queue_size=2 * DEPTH) as disk:
            writer = Writer(disk, DRIVE_BYTES)
            writer.run_for(2.0)
            quiet, taken, took_ms = [], [], []
            for number in range(rounds):
                quiet.append(writer.run_for(_WINDOW_S))
                body: dict[str, str] = {"name": f"number {number}"}
                with asking(partial(engine.control.ask, "POST", "/drives/vm/snapshots", body)) as ask:
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


def measure_clones(report: LayerReport, folder: Path, rounds: int) -> None:
    """PUT of a clone of a large base, beside that of a raw file as large."""
    base = folder / "large base"
    make_sparse(base, _BASE_BYTES)
    with ManyDrives({}, program=PROGRAM) as engine:
        raw_ms, clone_ms = [], []
        for number in range(rounds):
            raw = folder / f"raw {number}"
            make_sparse(raw, _BASE_BYTES)
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
    parser.add_argument("--only", choices=MEASURES, nargs="+", default=list(MEASURES), help="what to measure")
    arguments = parser.parse_args()
    report = LayerReport(machine(), sys.argv[1:])
    for name in arguments.only:
        with tempfile.TemporaryDirectory(dir=arguments.place, prefix="ringblk-bench-") as place:
            MEASURES[name](report, Path(place), arguments.layers, arguments.rounds)
    print(msgspec.json.encode(report).decode())


Measure = Callable[[LayerReport, Path, int, int], None]
"""Given the number of layers and of rounds."""

MEASURES: dict[str, Measure] = {
    "snapshots": lambda report, folder, _, rounds: measure_snapshots(report, folder, rounds),
    "clones": lambda report, folder, _, rounds: measure_clones(report, folder, 2 * rounds + 1),
    "chains": measure_reads,
    "touch": lambda report, folder, _, rounds: measure_first_touch(report, folder, 2 * rounds),
    "again": lambda report, folder, _, rounds: measure_again(report, folder, 4 * rounds),
    "bytes": lambda report, folder, _, __: measure_bytes(report, folder),
    "flushes": lambda report, folder, _, rounds: measure_flushes(report, folder, rounds),
    "memory": lambda report, folder, layers, _: measure_memory(report, folder, layers),
    "dirty": lambda report, folder, _, rounds: measure_dirty_snapshots(report, folder, max(1, rounds // 3)),
}
"""By name."""


if __name__ == "__main__":
    main()
