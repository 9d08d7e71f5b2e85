"""scripts/bench_shares: shared folders beside virtiofsd, by FUSE requests without a guest.

All back ends serve the same folder and stand side by side; each load is run on one after the other.
"""

import argparse
import os
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from ringblk.engine.load.cpu_clock import cpu_times
from tests.bench.backends import BackendFailed, BackendSpec, RunningBackend
from tests.bench.drives import RestFigures, at_rest, in_turn, print_rest
from tests.bench.fleets import FleetSpec
from tests.bench.fuse_client import FuseClient, ShareLoad, fill_folder
from tests.bench.processes import descendants
from tests.bench.report import Goal, Machine, machine

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_WARM_UP_S = 0.2
_PEER = "virtiofsd"
LOADS = (
    ShareLoad("read", 1),
    ShareLoad("read", 32),
    ShareLoad("write", 32),
    ShareLoad("getattr", 32),
    ShareLoad("lookup", 32),
    ShareLoad("create", 1),
)
GOALS = {
    "read 1": Goal(2.0),
    "read 32": Goal(2.0, 0.7),
    "write 32": Goal(1.8),
    "getattr 32": Goal(2.0),
    "lookup 32": Goal(2.0),
    "create 1": Goal(1.5),
}


class ShareFigures(msgspec.Struct, frozen=True):
    """One run of one load; of `create`, cycles are counted."""

    rate: float
    p50_us: float
    p99_us: float
    backend_us: float
    driver_us: float
    other_percent: float
    error_count: int


class Results(msgspec.Struct):
    """What the JSON file holds: every run, by load and back end."""

    machine: Machine
    arguments: list[str]
    loads: dict[str, dict[str, list[ShareFigures]]] = {}
    rest: dict[str, list[RestFigures]] = {}


def engine_spec(
    name: str, options: Sequence[str], programs: Path = Path(sys.executable).parent
) -> BackendSpec:
    """Our engine for one folder."""
    command = [
        str(programs / "vhost-user-ringblk-fs"),
        "--socket-path={socket}",
        "--shared-dir={image}",
        "--tag=bench",
    ]
    return BackendSpec(name, "ringblk", [*command, *options])


def peer_spec(program: str, options: Sequence[str], name: str = _PEER) -> BackendSpec:
    """virtiofsd, which is no safer than it has to be."""
    command = [
        program,
        "--socket-path={socket}",
        "--shared-dir={image}",
        "--sandbox=none",
        "--log-level=warn",
    ]
    return BackendSpec(name, _PEER, [*command, *options])


def run_once(client: FuseClient, pid: int, load: ShareLoad, seconds: float) -> ShareFigures:
    """One load on one back end. CPU time is of warm-up and all, as are the requests that it is divided by."""
    before = cpu_times(descendants(pid))
    times, error_count = client.run(load, warm_up_s=_WARM_UP_S, seconds=seconds)
    after = cpu_times(descendants(pid))
    whole_s = after.at_s - before.at_s
    backend_s, own_s = after.backend_s - before.backend_s, after.own_s - before.own_s
    count = max(1.0, times.count * whole_s / seconds)
    return ShareFigures(
        rate=times.count / seconds,
        p50_us=times.percentile(50) / 1e3,
        p99_us=times.percentile(99) / 1e3,
        backend_us=backend_s / count * 1e6,
        driver_us=own_s / count * 1e6,
        other_percent=max(0.0, after.machine_s - before.machine_s - backend_s - own_s) / whole_s * 100,
        error_count=error_count,
    )


def compare(
    folder: Path, specs: Sequence[BackendSpec], loads: Sequence[ShareLoad], runs: int, seconds: float
) -> dict[str, dict[str, list[ShareFigures]]]:
    """Each load on each back end in turn, all of them up at once. One that fails is reported and left out."""
    queue_count = max(load.queue_count for load in loads)
    found: dict[str, dict[str, list[ShareFigures]]] = {load.name: {} for load in loads}
    for _ in range(runs):
        with ExitStack() as stack:
            clients = []
            for spec in specs:
                try:
                    backend = stack.enter_context(RunningBackend(spec, folder))
                    client = stack.enter_context(FuseClient(backend.socket_path, queue_count))
                except (BackendFailed, OSError) as error:
                    print(f"{spec.name}: {error}", file=sys.stderr)
                else:
                    clients.append((spec.name, backend.pid, client))
            for load in loads:
                for name, pid, client in clients:
                    found[load.name].setdefault(name, []).append(run_once(client, pid, load, seconds))
    return found


def _median(runs: Sequence[ShareFigures], field: str) -> float:
    median: float = statistics.median(getattr(run, field) for run in runs)
    return median


def spread(runs: Sequence[ShareFigures]) -> float:
    """Fastest less slowest, as a part of the median."""
    rates = [run.rate for run in runs]
    return (max(rates) - min(rates)) / statistics.median(rates)


def print_loads(found: dict[str, dict[str, list[ShareFigures]]]) -> None:
    """A line for each back end of each load, with its ratios to the peer behind it."""
    for load, by_backend in found.items():
        for name, runs in by_backend.items():
            line = (
                f"{load:20} {name:18} {_median(runs, 'rate') / 1e3:8.1f} k/s, spread {spread(runs):4.0%},"
                f" p50 {_median(runs, 'p50_us'):7.1f} p99 {_median(runs, 'p99_us'):7.1f} us,"
                f" CPU {_median(runs, 'backend_us'):6.2f} (driver {_median(runs, 'driver_us'):5.2f}) us,"
                f" others {_median(runs, 'other_percent'):3.0f} %"
            )
            errors = sum(run.error_count for run in runs)
            print(
                line + (f", ERRORS {errors}" if errors else "") + _verdict(load, name, by_backend), flush=True
            )


def _verdict(load: str, name: str, by_backend: dict[str, list[ShareFigures]]) -> str:
    if name == _PEER or _PEER not in by_backend:
        return ""
    rate = _median(by_backend[name], "rate") / _median(by_backend[_PEER], "rate")
    cpu = _median(by_backend[name], "backend_us") / max(_median(by_backend[_PEER], "backend_us"), 0.01)
    said = f": {rate:.2f}x, CPU {cpu:.2f}x"
    goal = GOALS.get(load)
    if goal is None:
        return said
    is_met = rate >= goal.iops and cpu <= (goal.cpu or cpu)
    wanted = f"{goal.iops:.1f}x" + (f" at CPU {goal.cpu:.1f}x" if goal.cpu else "")
    return f"{said} ({wanted} {'met' if is_met else 'MISSED'})"


def compare_queues(
    folder: Path, operations: Sequence[str], runs: int, seconds: float
) -> dict[str, dict[str, list[ShareFigures]]]:
    """Two request queues and two workers beside one of each, at the same depth in each queue."""
    specs = {
        count: engine_spec(f"{count} of each", [f"--num-queues={count}", f"--workers={count}"])
        for count in (1, 2)
    }
    found: dict[str, dict[str, list[ShareFigures]]] = {}
    for _ in range(runs):
        for count, spec in specs.items():
            with RunningBackend(spec, folder) as backend, FuseClient(backend.socket_path, count) as client:
                for operation in operations:
                    figures = run_once(client, backend.pid, ShareLoad(operation, 32, count), seconds)
                    found.setdefault(f"{operation} 32, queues", {}).setdefault(spec.name, []).append(figures)
    return found


def _fleet(name: str, commands: list[str], *, is_one: bool = False) -> FleetSpec:
    def each(sockets: Sequence[Path], folders: Sequence[Path]) -> list[list[str]]:
        pairs = zip(sockets, folders, strict=True)
        return [[part.format(socket=path, image=folder) for part in commands] for path, folder in pairs]

    def one(sockets: Sequence[Path], folders: Sequence[Path]) -> list[list[str]]:
        drives = {
            f"share-{index}": {
                "kind": "fs",
                "socket_path": str(path),
                "shared_dir": str(folder),
                "tag": f"t{index}",
            }
            for index, (path, folder) in enumerate(zip(sockets, folders, strict=True))
        }
        config = sockets[0].with_name("engine.json")
        config.write_bytes(msgspec.json.encode({"drives": drives}))
        return [[str(Path(sys.executable).parent / "vhost-user-ringblk"), f"--config={config}"]]

    return FleetSpec(name, name, one if is_one else each)


def rest_of(folder: Path, count: int, peer: str | None, runs: int) -> dict[str, list[RestFigures]]:
    """So many folders that nobody uses."""
    folders = [folder / f"share-{index}" for index in range(count)]
    for each in folders:
        each.mkdir()
    specs = [
        _fleet("ringblk, an engine each", engine_spec("", []).command),
        _fleet("ringblk, one engine", [], is_one=True),
    ]
    if peer:
        specs.append(_fleet(_PEER, peer_spec(peer, []).command))
    return in_turn(specs, runs, lambda spec: at_rest(spec, folders))


@contextmanager
def folder_in(place: Path) -> Iterator[Path]:
    """A folder with what loads ask for."""
    with tempfile.TemporaryDirectory(dir=place, prefix="ringblk-bench-share-") as made:
        fill_folder(made)
        yield Path(made)


def find_peer() -> str | None:
    """Where virtiofsd is, if it is anywhere."""
    places = (_CACHE / "fsrig" / "bin" / "virtiofsd", Path("/usr/libexec/virtiofsd"))
    return shutil.which("virtiofsd") or next((str(place) for place in places if place.exists()), None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench_shares", description=__doc__)
    add = parser.add_argument
    add("--runs", type=int, default=5, help="of each, in turn (%(default)s)")
    add("--seconds", type=float, default=1.0, help="of each load (%(default)s)")
    add("--loads", help="names with commas between them, as the table has them: 'read 32,create 1'")
    add("--folder", type=Path, default=Path("/dev/shm"), help="where the shared folder is made (%(default)s)")
    add("--engine-args", default="", metavar="ARGS", help="options of the engine")
    add(
        "--engine-build",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="the engine of another checkout too, where ./scripts/setup has run",
    )
    add("--peer", default=find_peer(), metavar="PATH", help="virtiofsd's program (%(default)s; '' for none)")
    add("--peer-args", default="", metavar="ARGS", help="its options")
    add("--queues", action="store_true", help="two request queues and two workers beside one of each, too")
    add("--rest", type=int, default=0, metavar="N", help="what N folders cost at rest, too")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


def main() -> None:
    """Measure and print."""
    arguments = _parser().parse_args()
    options = shlex.split(arguments.engine_args)
    specs = [engine_spec("ringblk", options)]
    for build in arguments.engine_build:
        name, _, folder = build.partition("=")
        specs.append(engine_spec(name, options, Path(folder, ".venv", "bin")))
    if arguments.peer:
        specs.append(peer_spec(arguments.peer, shlex.split(arguments.peer_args)))
    wanted = arguments.loads.split(",") if arguments.loads else [load.name for load in LOADS]
    loads = [load for load in LOADS if load.name in wanted]
    results = Results(machine(), sys.argv[1:])
    print(msgspec.json.encode(results.machine).decode())
    with folder_in(arguments.folder) as shared:
        if loads:
            results.loads = compare(shared, specs, loads, arguments.runs, arguments.seconds)
            print_loads(results.loads)
        if arguments.queues:
            queues = compare_queues(shared, ("read", "lookup"), arguments.runs, arguments.seconds)
            print_loads(queues)
            results.loads.update(queues)
        if arguments.rest:
            results.rest = rest_of(shared, arguments.rest, arguments.peer, arguments.runs)
            for name, rest in results.rest.items():
                print_rest(name, arguments.rest, rest)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


if __name__ == "__main__":
    main()
