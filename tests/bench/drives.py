"""scripts/bench_drives: many drives, at rest and busy, beside qemu-storage-daemon.

At rest: memory, processes, and the time until all sockets accept. Memory is the proportional set size of all
processes without what they share by name, and what that takes in its file system, counted once. Busy: every
drive has a few reads in flight, all the time; the drivers are threads of this process.
"""

import argparse
import os
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.load.generator import generate_load
from ringblk.engine.load.load import Load, LoadFigures
from tests.bench.backends import BackendFailed
from tests.bench.fleets import Fleet, FleetSpec, engine_fleet, one_engine_fleet, storage_daemon_fleets
from tests.bench.images import prepare_image
from tests.bench.processes import memory_kib, shared_kib
from tests.bench.report import Machine, machine

_MIB = 1 << 20
_SETTLE_S = 1.0
_LOAD_DEPTH = 4

Figures = TypeVar("Figures")


class RestFigures(msgspec.Struct, frozen=True):
    """Some drives that nobody uses: their processes' memory, and the shared memory beside it."""

    private_mib: float
    shared_mib: float
    process_count: int
    start_s: float


class LoadTotals(msgspec.Struct, frozen=True):
    """Some drives under the same load; `slowest_part` is the slowest as a part of the fastest."""

    iops: float
    slowest_part: float
    backend_us_per_io: float
    other_percent: float


class Results(msgspec.Struct):
    """What the JSON file holds: every run, by the name of who served."""

    machine: Machine
    arguments: list[str]
    rest: dict[str, list[RestFigures]]
    load: dict[str, list[LoadTotals]]


def at_rest(spec: FleetSpec, images: Sequence[Path]) -> RestFigures:
    """Start, wait a moment, and look."""
    with Fleet(spec, images) as fleet:
        time.sleep(_SETTLE_S)
        pids = fleet.pids()
        parts = memory_kib(pids).values()
        return RestFigures(
            private_mib=sum(each["Pss"] - each["Pss_Shmem"] for each in parts) / 1024,
            shared_mib=shared_kib(pids) / 1024,
            process_count=len(pids),
            start_s=fleet.start_s,
        )


def busy(spec: FleetSpec, images: Sequence[Path], seconds: float) -> LoadTotals:
    """Load every drive at once."""
    load = Load(depth=_LOAD_DEPTH)
    with Fleet(spec, images) as fleet, ExitStack() as stack:
        disks = [
            stack.enter_context(Frontend(str(path), memory_size_bytes=load.memory_bytes))
            for path in fleet.sockets
        ]
        threads = stack.enter_context(ThreadPoolExecutor(len(disks)))
        runs = [
            threads.submit(generate_load, disk, load, seconds=seconds, backend_pids=fleet.pids)
            for disk in disks
        ]
        return totals([run.result() for run in runs])


def totals(figures: Sequence[LoadFigures]) -> LoadTotals:
    """What loads at the same time come to, of which each was told the CPU time of all."""
    iops = sum(each.iops for each in figures)
    first = figures[0]
    return LoadTotals(
        iops=iops,
        slowest_part=min(each.iops for each in figures) / max(each.iops for each in figures),
        backend_us_per_io=first.backend_us_per_io * first.iops / iops,
        other_percent=first.other_percent,
    )


@contextmanager
def images_in(folder: Path, count: int, size_bytes: int, *, are_written: bool) -> Iterator[list[Path]]:
    """Images, written end to end or taking no room."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="ringblk-bench-images-") as made:
        images = [Path(made, f"{index}.img") for index in range(count)]
        for image in images:
            if are_written:
                prepare_image(image, size_bytes)
            else:
                image.touch()
                os.truncate(image, size_bytes)
        yield images


def in_turn(
    specs: Sequence[FleetSpec], runs: int, measure: Callable[[FleetSpec], Figures]
) -> dict[str, list[Figures]]:
    """Each in each round; who fails is left out from then on."""
    found: dict[str, list[Figures]] = {}
    failed = set()
    for _ in range(runs):
        for spec in specs:
            if spec.name in failed:
                continue
            try:
                figures = measure(spec)
            except (BackendFailed, OSError) as error:
                failed.add(spec.name)
                print(f"{spec.name}: {error}", file=sys.stderr)
            else:
                found.setdefault(spec.name, []).append(figures)
    return found


def _median(values: Sequence[float]) -> str:
    """The median, and the smallest and largest."""
    return f"{statistics.median(values):9.2f} ({min(values):.2f} to {max(values):.2f})"


def print_rest(name: str, drive_count: int, runs: Sequence[RestFigures]) -> None:
    """A line for who serves."""
    together = [run.private_mib + run.shared_mib for run in runs]
    print(
        f"{name:42} {_median(together)} MiB, {statistics.median(together) / drive_count:.2f} a drive,"
        f" of it shared {statistics.median(run.shared_mib for run in runs):.2f};"
        f" {runs[-1].process_count} processes; up in {_median([run.start_s for run in runs])} s",
        flush=True,
    )


def print_load(name: str, runs: Sequence[LoadTotals]) -> None:
    """A line for who serves."""
    print(
        f"{name:42} {_median([run.iops / 1e3 for run in runs])} kIOPS,"
        f" {_median([run.backend_us_per_io for run in runs])} us CPU/IO,"
        f" slowest/fastest {statistics.median(run.slowest_part for run in runs):.2f},"
        f" others {statistics.median(run.other_percent for run in runs):.0f} %",
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench_drives", description=__doc__)
    add = parser.add_argument
    add("--drives", type=int, default=20, help="how many stand idle (%(default)s; 0: none)")
    add("--busy-drives", type=int, default=10, help="how many are loaded (%(default)s; 0: none)")
    add("--runs", type=int, default=3, help="of each, in turn (%(default)s)")
    add("--seconds", type=float, default=3.0, help="of load (%(default)s)")
    add("--image-mib", type=int, default=64, help="size of each image (%(default)s)")
    add("--folder", type=Path, default=Path("/dev/shm"), help="where the images lie (%(default)s)")
    add("--engine-args", default="", metavar="ARGS", help="options of the engine")
    add(
        "--engine-build",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="the engine of another checkout too, where ./scripts/setup has run",
    )
    add("--variant", action="append", default=[], metavar="ARGS", help="one engine with these options, too")
    add("--no-peers", action="store_true", help="our engine alone")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


def main() -> None:
    """Measure both and print."""
    arguments = _parser().parse_args()
    options = shlex.split(arguments.engine_args)
    specs = [engine_fleet(options), one_engine_fleet(options)]
    for variant in arguments.variant:
        both = [*options, *shlex.split(variant)]
        specs.append(one_engine_fleet(both, name=f"ringblk {variant}"))
    for build in arguments.engine_build:
        name, _, folder = build.partition("=")
        programs = Path(folder, ".venv", "bin")
        specs += [make(options, name=name, programs=programs) for make in (engine_fleet, one_engine_fleet)]
    if not arguments.no_peers:
        specs += storage_daemon_fleets(is_installed=shutil.which("qemu-storage-daemon") is not None)
    results = Results(machine(), sys.argv[1:], {}, {})
    print(msgspec.json.encode(results.machine).decode())
    size_bytes = arguments.image_mib * _MIB
    if arguments.drives:
        print(f"\n{arguments.drives} drives at rest")
        with images_in(arguments.folder, arguments.drives, size_bytes, are_written=False) as images:
            results.rest = in_turn(specs, arguments.runs, lambda spec: at_rest(spec, images))
        for name, rest in results.rest.items():
            print_rest(name, arguments.drives, rest)
    if arguments.busy_drives:
        print(f"\n{arguments.busy_drives} drives, {_LOAD_DEPTH} reads of 4 KiB in flight on each")
        with images_in(arguments.folder, arguments.busy_drives, size_bytes, are_written=True) as images:
            results.load = in_turn(specs, arguments.runs, lambda spec: busy(spec, images, arguments.seconds))
        for name, totals in results.load.items():
            print_load(name, totals)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


if __name__ == "__main__":
    main()
