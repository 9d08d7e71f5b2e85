"""scripts/bench: loads on our engine and on its peers, and what the engine costs at rest."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench.backends import AIO_MODES, BackendSpec, engine_spec, storage_daemon_specs
from tests.bench.busy_cores import busy_cores
from tests.bench.comparison import (
    Result,
    RunLoad,
    RunSettings,
    compare,
    hold_driver,
    interleave,
    run_on_backend,
    summarize,
)
from tests.bench.costs import idle_costs, print_idle, print_start, start_times_ms
from tests.bench.fio import FIO_ENGINES, fio_runner
from tests.bench.images import prepare_image
from tests.bench.libblkio import libblkio_runner
from tests.bench.loads import MORE_LOADS, PICTURE_DEPTHS, STANDARD_LOADS, load_named
from tests.bench.picture import draw
from tests.bench.report import Report, best_of, machine, print_header, print_ratios, print_result, write_json

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_LIBBLKIO_CLIENT = [str(_CACHE / "blkrig" / "bin" / "run-trixie"), "/usr/local/bin/blkbench"]
_BACKENDS_FOLDER = Path(__file__).parent.parent / "rigs" / "backends"
_MIB = 1 << 20


def main() -> None:
    """Run what the command line asks for; a comparison when it names nothing else."""
    arguments = _parser().parse_args()
    settings = _settings(arguments)
    images = _images(arguments)
    report = Report(machine(), sys.argv[1:])
    print(msgspec.json.encode(report.machine).decode())
    hold_driver(settings)
    asked = [mode for mode in _MODES if getattr(arguments, mode)]
    for mode in asked or ["compare"]:
        _MODES[mode](arguments, settings, images, report)
    if arguments.json:
        write_json(arguments.json, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    add = parser.add_argument_group("what to measure").add_argument
    add("--compare", action="store_true", help="loads against the peers (the default)")
    add("--workers-sweep", action="store_true", help="the engine with 1 to 8 workers")
    add("--costs", action="store_true", help="idle wake-ups, memory, start time")
    add("--busy-cores", action="store_true", help="with every core busy: with spinning and without")
    add("--python-backend", action="store_true", help="a backend written in Python, on two workers")
    add("--check-libblkio", action="store_true", help="the same loads by libblkio, beside our driver")
    add("--picture", type=Path, metavar="FOLDER", help="latency against throughput over depths, as SVG files")
    add = parser.add_argument_group("loads and peers").add_argument
    add("--loads", help="names with commas between them, or 'more' for an extended set")
    add("--engine-args", default="", metavar="ARGS", help="options of the engine")
    add(
        "--engine-variant",
        action="append",
        default=[],
        metavar="NAME=ARGS",
        help="the engine with other options too",
    )
    add(
        "--engine-build",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="the engine of another checkout too, where ./scripts/setup has run",
    )
    add(
        "--aio",
        default=",".join(AIO_MODES),
        help="settings of qemu-storage-daemon (%(default)s; '' for none)",
    )
    add("--peer-cpus", default="0", help="CPUs that a pinned peer is held to (%(default)s)")
    add("--no-roaming", action="store_true", help="leave the peers that roam out")
    add("--fio", action="store_true", help="fio on the bare file as well")
    add = parser.add_argument_group("runs").add_argument
    add("--seconds", type=float, default=5.0)
    add("--runs", type=int, default=3, help="that count (%(default)s)")
    add("--tries", type=int, help="at most, when runs are disturbed (three times the runs)")
    add("--quiet-percent", type=float, default=15.0, help="CPU of others that a run may see (%(default)s)")
    add("--wait-quiet", type=float, default=0.0, metavar="S", help="wait this long for others to be quiet")
    add("--quick", action="store_true", help="one short run of each, the likely best peers only")
    add("--polling", action="store_true", help="the driver spins instead of sleeping")
    add("--no-indirect", action="store_true", help="three descriptors a request instead of an indirect table")
    add("--queue-size", type=int, default=256)
    add("--driver-cpus", help="CPUs that the driver is held to (the last one; 'all' for any)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add = parser.add_argument_group("images").add_argument
    add("--images", default="tmpfs,disk", help="which (%(default)s)")
    add("--tmpfs-image", type=Path, default=Path("/dev/shm/ringblk-bench.img"))
    add("--disk-image", type=Path, default=_CACHE / "ringblk-bench" / "disk.img")
    return parser


def _cpus(text: str) -> frozenset[int]:
    return frozenset(int(cpu) for cpu in text.split(","))


def _settings(arguments: argparse.Namespace) -> RunSettings:
    if arguments.quick:
        arguments.seconds, arguments.runs, arguments.tries = 1.0, 1, 1
        arguments.no_roaming = True
        arguments.aio = ",".join(aio for aio in arguments.aio.split(",") if aio != "threads")
    last = frozenset([(os.cpu_count() or 1) - 1])
    driver_cpus = {None: last, "all": None}.get(arguments.driver_cpus, last)
    if arguments.driver_cpus not in (None, "all"):
        driver_cpus = _cpus(arguments.driver_cpus)
    return RunSettings(
        seconds=arguments.seconds,
        runs=arguments.runs,
        tries=arguments.tries or 3 * arguments.runs,
        quiet_percent=arguments.quiet_percent,
        polling=arguments.polling,
        indirect=not arguments.no_indirect,
        queue_size=arguments.queue_size,
        driver_cpus=driver_cpus,
        wait_quiet_s=arguments.wait_quiet,
    )


def _images(arguments: argparse.Namespace) -> dict[str, Path]:
    found = {}
    for name in arguments.images.split(","):
        if name == "tmpfs":
            found[name] = prepare_image(arguments.tmpfs_image, 1024 * _MIB)
        else:
            found[name] = prepare_image(arguments.disk_image, 4096 * _MIB)
    return found


def _engines(arguments: argparse.Namespace) -> list[BackendSpec]:
    common = shlex.split(arguments.engine_args)
    found = [engine_spec(common)]
    for variant in arguments.engine_variant:
        name, _, options = variant.partition("=")
        found.append(engine_spec([*common, *shlex.split(options)], name=name))
    for build in arguments.engine_build:
        name, _, folder = build.partition("=")
        found.append(engine_spec(common, name=name, programs=Path(folder, ".venv", "bin")))
    return found


def _peers(arguments: argparse.Namespace) -> list[BackendSpec]:
    modes = [aio for aio in arguments.aio.split(",") if aio]
    return storage_daemon_specs(modes, _cpus(arguments.peer_cpus), not arguments.no_roaming)


def _loads(arguments: argparse.Namespace) -> Sequence[str]:
    if arguments.loads == "more":
        return (*STANDARD_LOADS, *MORE_LOADS)
    return arguments.loads.split(",") if arguments.loads else STANDARD_LOADS


def _with_queues(specs: Sequence[BackendSpec], load_name: str) -> list[BackendSpec]:
    """Our engine offers as many queues as the load uses."""
    count = load_named(load_name).num_queues
    if count == 1:
        return list(specs)
    return [
        msgspec.structs.replace(spec, command=[*spec.command, f"--num-queues={count}"])
        if spec.family == "ringblk"
        else spec
        for spec in specs
    ]


def _compare_all(
    specs: Sequence[BackendSpec],
    loads: Sequence[str],
    settings: RunSettings,
    images: dict[str, Path],
    report: Report,
) -> list[Result]:
    found = []
    driver = "polling" if settings.polling else "sleeping"
    for image_name, image in images.items():
        for load in loads:
            print_header(load, image_name, driver)
            results = compare(load, image_name, image, _with_queues(specs, load), settings)
            for result in results:
                print_result(result)
            found += results
    report.results += found
    return found


def _compare(
    arguments: argparse.Namespace, settings: RunSettings, images: dict[str, Path], report: Report
) -> None:
    found = _compare_all(
        [*_engines(arguments), *_peers(arguments)], _loads(arguments), settings, images, report
    )
    if arguments.fio:
        found += _fio(arguments, settings, images, report)
    print_ratios(found)


def _fio(
    arguments: argparse.Namespace, settings: RunSettings, images: dict[str, Path], report: Report
) -> list[Result]:
    found = []
    cpu = min(_cpus(arguments.peer_cpus))
    for image_name, image in images.items():
        runners = {f"fio-{name}": fio_runner(name, image, settings, cpu) for name in FIO_ENGINES}
        known = {name: runner for name, runner in runners.items() if runner is not None}
        for load in _loads(arguments):
            print_header(load, image_name, "none: fio on the file")
            for name, runs in interleave(load_named(load), known, settings).items():
                if runs:
                    result = summarize(load, image_name, name, "fio", runs, settings)
                    print_result(result)
                    found.append(result)
    report.results += found
    return found


def _workers_sweep(
    arguments: argparse.Namespace, settings: RunSettings, images: dict[str, Path], report: Report
) -> None:
    common = shlex.split(arguments.engine_args)
    specs = [engine_spec([*common, f"--workers={count}"], name=f"workers-{count}") for count in range(1, 9)]
    loads = arguments.loads.split(",") if arguments.loads else ["randread-4k-qd32", "randwrite-4k-qd32"]
    _compare_all(specs, loads, settings, images, report)


def _costs(
    arguments: argparse.Namespace, settings: RunSettings, images: dict[str, Path], report: Report
) -> None:
    image = next(iter(images.values()))
    for spec in [*_engines(arguments), *_peers(arguments)[:1]]:
        idle = idle_costs(spec, image, seconds=max(1.0, settings.seconds))
        print_idle(spec.name, idle)
        times_ms = start_times_ms(spec, image, 5 if arguments.quick else 20)
        print_start(spec.name, times_ms)
        report.costs[spec.name] = {"idle": idle, "start_ms": times_ms}


def _busy(
    arguments: argparse.Namespace, settings: RunSettings, images: dict[str, Path], report: Report
) -> None:
    common = shlex.split(arguments.engine_args)
    specs = [
        engine_spec(common, name="spinning"),
        engine_spec([*common, "--poll-us=0"], name="not-spinning"),
    ]
    disturbed = msgspec.structs.replace(settings, quiet_percent=float("inf"))
    with busy_cores():
        _compare_all(specs, _loads(arguments), disturbed, images, report)


def _python_backend(
    arguments: argparse.Namespace, settings: RunSettings, images: dict[str, Path], report: Report
) -> None:
    backend = ("--backend=ram_disk:RamDisk", f"--backend-arg=size_bytes={256 * _MIB}")
    spec = engine_spec(
        ["--workers=2", *shlex.split(arguments.engine_args)], name="python-backend", backend_options=backend
    )
    spec = msgspec.structs.replace(spec, command=["env", f"PYTHONPATH={_BACKENDS_FOLDER}", *spec.command])
    loads = arguments.loads.split(",") if arguments.loads else ["randread-4k-qd32", "randwrite-4k-qd32"]
    _compare_all([spec], loads, settings, {"bytearray": next(iter(images.values()))}, report)


def _check_libblkio(
    arguments: argparse.Namespace, settings: RunSettings, images: dict[str, Path], report: Report
) -> None:
    if not Path(_LIBBLKIO_CLIENT[0]).exists():
        sys.exit(f"bench: no libblkio client at {_LIBBLKIO_CLIENT[0]}")
    # As libblkio drives a queue: 256 entries, no indirect tables.
    settings = msgspec.structs.replace(settings, indirect=False, queue_size=256)
    for image_name, image in images.items():
        for spec in _engines(arguments):
            for load in _loads(arguments):
                runners: dict[str, RunLoad] = {
                    "own driver": lambda load, spec=spec, image=image: run_on_backend(  # type: ignore[misc]
                        spec, image, load, settings
                    ),
                    "libblkio": libblkio_runner(_LIBBLKIO_CLIENT, spec, image, settings),
                }
                print_header(
                    load, image_name, f"{'polling' if settings.polling else 'sleeping'}, two clients"
                )
                results = [
                    summarize(load, image_name, f"{spec.name}/{name}", name, runs, settings)
                    for name, runs in interleave(load_named(load), runners, settings).items()
                    if runs
                ]
                for result in results:
                    print_result(result)
                if len(results) == 2:
                    print(f"own driver / libblkio: {results[0].median.iops / results[1].median.iops:.2f}")
                report.results += results


def _picture(
    arguments: argparse.Namespace, settings: RunSettings, images: dict[str, Path], report: Report
) -> None:
    arguments.picture.mkdir(parents=True, exist_ok=True)
    peers = _peers(arguments)
    loads = [f"randread-4k-qd{depth}" for depth in PICTURE_DEPTHS]
    for image_name, image in images.items():
        results = _compare_all([*_engines(arguments), *peers], loads, settings, {image_name: image}, report)
        lines: dict[str, list[Result]] = {}
        for load in loads:
            group = [result for result in results if result.load == load]
            for family in dict.fromkeys(result.family for result in group):
                best = best_of(group, family)
                assert best is not None  # the family is of this group
                lines.setdefault("qemu-storage-daemon" if family == "qsd" else family, []).append(best)
        path = arguments.picture / f"latency-{image_name}.svg"
        draw(path, f"4 KiB random reads, {image_name} image, by depth", lines)
        print(f"drawn: {path}")


_MODES = {
    "compare": _compare,
    "workers_sweep": _workers_sweep,
    "costs": _costs,
    "busy_cores": _busy,
    "python_backend": _python_backend,
    "check_libblkio": _check_libblkio,
    "picture": _picture,
}


if __name__ == "__main__":
    main()
