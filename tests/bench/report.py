"""Tables of results, ratios against the best setting of each peer, and the JSON file."""

import datetime
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tests.bench.comparison import Result

_COLUMNS = f"{'IOPS':>9} {'spread':>6} {'MiB/s':>7} {'avg us':>8} {'p50':>8} {'p99':>8} {'p99.9':>8}"
_COLUMNS += f" {'drv us/IO':>9} {'bk us/IO':>8} {'other%':>6}"


class Goal(msgspec.Struct, frozen=True):
    """At least this ratio of IOPS to the peer's best, at most this ratio of CPU for each request."""

    iops: float
    cpu: float | None = None


GOALS = {
    ("tmpfs", "randread-4k-qd1"): Goal(2.0),
    ("tmpfs", "randread-4k-qd32"): Goal(1.6, 0.7),
    ("tmpfs", "randread-4k-qd128"): Goal(2.0, 0.7),
    ("tmpfs", "randwrite-4k-qd32"): Goal(1.5),
    ("tmpfs", "seqread-128k-qd8"): Goal(1.2),
    ("disk", "randread-4k-qd1"): Goal(1.5),
}


class Machine(msgspec.Struct, frozen=True):
    """Where and when the figures are from."""

    date: str
    processor: str
    cpu_count: int
    kernel: str


class Report(msgspec.Struct):
    """What the JSON file holds."""

    machine: Machine
    arguments: list[str]
    results: list[Result] = []
    costs: dict[str, object] = {}


def machine() -> Machine:
    """This one, now."""
    return Machine(
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        _processor(),
        os.cpu_count() or 0,
        platform.release(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def print_header(load: str, image: str, driver: str) -> None:
    """The head of one load's table."""
    print(f"\n{load} on {image}, driver {driver}\n{'':20} {_COLUMNS}", flush=True)


def print_result(result: Result) -> None:
    """One line: the medians of a back end."""
    found = result.median
    errors = sum(run.error_count for run in result.runs)
    print(
        f"{result.backend:20} {found.iops:9.0f} {result.iops_spread:6.0%} {found.mib_per_s:7.0f}"
        f" {found.mean_us:8.1f} {found.p50_us:8.1f} {found.p99_us:8.1f} {found.p999_us:8.1f}"
        f" {found.driver_us_per_io:9.2f} {found.backend_us_per_io:8.2f} {found.other_percent:6.0f}"
        + ("  disturbed" if result.disturbed else "")
        + (f"  ERRORS {errors}" if errors else ""),
        flush=True,
    )


def best_of(results: Iterable[Result], family: str) -> Result | None:
    """The result with the most IOPS of one program."""
    found = [result for result in results if result.family == family]
    return max(found, key=lambda result: result.median.iops, default=None)


def print_ratios(results: Sequence[Result]) -> None:
    """Our engine against the best of each peer, load by load."""
    keys = dict.fromkeys((result.image, result.driver, result.load) for result in results)
    print(
        f"\n{'ratio, ours to the best of the peer':44} {'IOPS':>6} {'p50':>6} {'p99':>6} {'CPU/IO':>6}  goal"
    )
    for image, driver, load in keys:
        group = [
            result
            for result in results
            if (result.image, result.driver, result.load) == (image, driver, load)
        ]
        ours = best_of(group, "ringblk")
        for family in dict.fromkeys(result.family for result in group if result.family != "ringblk"):
            peer = best_of(group, family)
            if ours is None or peer is None:
                continue
            goal = GOALS.get((image, load), Goal(1.0)) if family == "qsd" and driver == "sleeping" else None
            print(f"{image:6} {load:20} {driver:8} {peer.backend:18}" + _ratios(ours, peer, goal))


def _ratios(ours: Result, peer: Result, goal: Goal | None) -> str:
    a, b = ours.median, peer.median
    text = (
        f" {_ratio(a.iops, b.iops)} {_ratio(a.p50_us, b.p50_us)} {_ratio(a.p99_us, b.p99_us)}"
        f" {_ratio(a.backend_us_per_io, b.backend_us_per_io)}"
    )
    if goal is None:
        return text
    met = a.iops >= goal.iops * b.iops
    said = f"IOPS {goal.iops:.1f}"
    if goal.cpu is not None:
        met = met and a.backend_us_per_io <= goal.cpu * b.backend_us_per_io
        said += f", CPU {goal.cpu:.1f}"
    verdict = "met" if met else "MISSED"
    if ours.disturbed or peer.disturbed:
        verdict += " (disturbed: says little)"
    return f"{text}  {said} {verdict}"


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:6.2f}" if theirs else "     -"


def write_json(path: Path, report: Report) -> None:
    """Everything, each run included."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
