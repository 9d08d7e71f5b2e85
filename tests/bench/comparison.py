"""Loads on several back ends, interleaved run by run, so that what disturbs one disturbs all.

Each run starts its back end anew: two programs can then take turns on one image, and no run inherits a state.
A run during which the rest of the machine used more than `quiet_percent` of a core is repeated; the quietest
runs count, as in any benchmark that shares its machine.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.load.cpu_clock import cpu_times
from ringblk.engine.load.generator import generate_load
from ringblk.engine.load.load import Load, LoadFigures
from tests.bench.backends import BackendSpec, RunningBackend
from tests.bench.loads import load_named
from tests.bench.processes import descendants

RunLoad = Callable[[Load], LoadFigures]


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a load is run: how long, how often, and by what kind of driver."""

    seconds: float = 5.0
    warm_up_s: float = 0.5
    runs: int = 3
    tries: int = 9
    quiet_percent: float = 15.0
    polling: bool = False
    indirect: bool = True
    queue_size: int = 256
    driver_cpus: frozenset[int] | None = None
    wait_quiet_s: float = 0.0
    """How long to wait, before a run, for the machine to become quiet."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one back end: the runs that count, and the median of each figure."""

    load: str
    image: str
    driver: str
    backend: str
    family: str
    runs: list[LoadFigures]
    median: LoadFigures
    iops_spread: float
    """Largest less smallest, as a part of the median."""
    disturbed: bool
    """Whether a run that counts was not quiet: there were not enough quiet ones."""


def run_on_backend(spec: BackendSpec, image: Path, load: Load, settings: RunSettings) -> LoadFigures:
    """One run: start the back end, drive it, end it."""
    with (
        RunningBackend(spec, image) as backend,
        Frontend(
            backend.socket_path,
            memory_size_bytes=load.memory_bytes,
            num_queues=load.num_queues,
            queue_size=settings.queue_size,
            indirect=settings.indirect,
            polling=settings.polling,
        ) as disk,
    ):
        return generate_load(
            disk,
            load,
            seconds=settings.seconds,
            warm_up_s=settings.warm_up_s,
            backend_pids=lambda: descendants(backend.pid),
        )


def compare(
    load_name: str, image_name: str, image: Path, specs: Sequence[BackendSpec], settings: RunSettings
) -> list[Result]:
    """The load on each back end in turn, until each has its quiet runs or has had all its tries."""
    runners: dict[str, RunLoad] = {
        spec.name: lambda load, spec=spec: run_on_backend(spec, image, load, settings)  # type: ignore[misc]
        for spec in specs
    }
    runs = interleave(load_named(load_name), runners, settings)
    return [
        summarize(load_name, image_name, spec.name, spec.family, runs[spec.name], settings)
        for spec in specs
        if runs[spec.name]
    ]


def interleave(
    load: Load, runners: dict[str, RunLoad], settings: RunSettings
) -> dict[str, list[LoadFigures]]:
    """What each runner measured: its quietest runs. One that fails is reported and left out."""
    found: dict[str, list[LoadFigures]] = {name: [] for name in runners}
    failed: set[str] = set()
    for _ in range(settings.tries):
        for name, run in runners.items():
            if name in failed or _quiet_count(found[name], settings) >= settings.runs:
                continue
            _wait_for_quiet(settings)
            try:
                found[name].append(run(load))
            except Exception as error:  # a peer that cannot do this load is no reason to lose the others
                print(f"bench: {name}: {type(error).__name__}: {error}", file=sys.stderr)
                failed.add(name)
    return {
        name: sorted(runs, key=lambda run: run.other_percent)[: settings.runs] for name, runs in found.items()
    }


def _wait_for_quiet(settings: RunSettings) -> None:
    """Look at the machine for a quarter of a second at a time, until it is quiet or the time is over."""
    deadline_s = time.monotonic() + settings.wait_quiet_s
    while time.monotonic() < deadline_s:
        before = cpu_times()
        time.sleep(0.25)
        after = cpu_times()
        if (after.machine_s - before.machine_s) / (after.at_s - before.at_s) * 100 <= settings.quiet_percent:
            return


def _quiet_count(runs: Sequence[LoadFigures], settings: RunSettings) -> int:
    return sum(run.other_percent <= settings.quiet_percent for run in runs)


def summarize(
    load: str, image: str, name: str, family: str, runs: list[LoadFigures], settings: RunSettings
) -> Result:
    """Medians figure by figure, and how far the runs lie apart."""
    median = LoadFigures(
        **{
            field: statistics.median(getattr(run, field) for run in runs)
            for field in LoadFigures.__struct_fields__
        }
    )
    iops = [run.iops for run in runs]
    return Result(
        load=load,
        image=image,
        driver="polling" if settings.polling else "sleeping",
        backend=name,
        family=family,
        runs=runs,
        median=median,
        iops_spread=(max(iops) - min(iops)) / median.iops if median.iops else 0.0,
        disturbed=_quiet_count(runs, settings) < len(runs),
    )


def hold_driver(settings: RunSettings) -> None:
    """Hold this process, which is the driver, to its CPUs; back ends are given theirs when they start."""
    if settings.driver_cpus is not None:
        os.sched_setaffinity(0, settings.driver_cpus)
