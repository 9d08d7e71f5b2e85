"""`scripts/run`: an engine on a new image, and what it does under a verified load, or with a guest."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ringblk import BackendGone, BackendRefused, Frontend, RequestType, engine_command
from ringblk.engine.load.verified_load import LoadSettings, OperationResult, VerifiedLoad
from ringblk.shm.layout.histogram import Histogram
from ringblk.shm.state.segment import SEGMENT_PREFIX, StateSegment

MIB = 1 << 20
NS_PER_S = 1_000_000_000
WorkerCounters = list[tuple[int, int]]


class RunError(Exception):
    """The run cannot begin; the message is one line that says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status: 0, 1 when an answer was wrong, 2 when nothing was run."""
    options, guest_options = parse_options(arguments)
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:  # nohup(1)
            continue
        signal.signal(number, lambda number, frame: sys.exit(128 + number))  # by way of every `finally`
    try:
        with new_image(options.file, options.size_mib * MIB) as image:
            if options.guest:
                return run_guest(image, options, guest_options)
            return run_load(image, options, console)
    except (RunError, ValueError, BackendGone, BackendRefused) as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parse_options(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line; with --guest, what is not known here is for scripts/guest."""
    parser = argparse.ArgumentParser(
        prog="run", description="Start an engine on a new image and drive a verified load on it."
    )
    parser.add_argument("--guest", action="store_true", help="boot a Linux guest on it instead")
    parser.add_argument("--seconds", type=float, default=10, help="how long the load runs (default: 10)")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default: 4)")
    parser.add_argument("--num-queues", type=int, default=1, help="virtqueues (default: 1)")
    parser.add_argument("--depth", type=int, default=16, help="requests in flight a queue (default: 16)")
    parser.add_argument(
        "--file", type=Path, help="make the image here and keep it (default: a temporary one)"
    )
    parser.add_argument("--size-mib", type=int, default=256, help="the image's size (default: 256)")
    parser.add_argument("--direct", default="auto", help="auto, on or off: past the page cache")
    parser.add_argument("--seed", type=int, default=1, help="the load's random seed (default: 1)")
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.guest:
        parser.error(f"unknown: {' '.join(rest)}")
    return options, rest


@contextlib.contextmanager
def new_image(path: Path | None, size_bytes: int) -> Iterator[Path]:
    """A new, empty image: a temporary one, or one that stays at `path`."""
    with tempfile.TemporaryDirectory(prefix="ringblk-") as folder:
        image = path or Path(folder, "disk.img")
        try:
            with image.open("xb") as file:
                file.truncate(size_bytes)
        except FileExistsError:
            raise RunError(f"{image} exists already, and the load would write over it") from None
        except OSError as error:
            raise RunError(f"cannot make {image}: {error.strerror or error}") from error
        yield image


def run_load(image: Path, options: argparse.Namespace, console: Console) -> int:
    """Drive the load, check everything, print what came of it."""
    command = engine_command(
        f"--blk-file={image}",
        f"--workers={options.workers}",
        f"--num-queues={options.num_queues}",
        f"--direct={options.direct}",
    )
    with Frontend(command, num_queues=options.num_queues, memory_size_bytes=64 * MIB) as disk:
        load = VerifiedLoad(disk, LoadSettings(depth=options.depth, seed=options.seed))
        before = read_workers(disk.backend_pid, options.workers)
        elapsed_s = drive(load, options.seconds, console)
        after = read_workers(disk.backend_pid, options.workers)
        load_count = load.request_count
        check_disk(load, disk.capacity_bytes, console)
    check_image(load, image, console)
    console.print(operation_table(load.results, elapsed_s))
    console.print(worker_table(before, after, load_count, elapsed_s))
    if load.fault_count:
        console.print(f"{load.fault_count} faults:", style="bold red")
        for fault in load.faults:
            console.print(f"  {fault}", markup=False)
        return 1
    checked = f"{load.request_count} requests, every block read back, the image compared: no fault"
    console.print(checked, style="green")
    return 0


def drive(load: VerifiedLoad, seconds: float, console: Console) -> float:
    """Run the load behind a progress bar; returns how long it took."""
    started_s = time.monotonic()
    shown_s = 0.0
    with progress_bar(console) as progress:
        task = progress.add_task("verified load", total=seconds, note="")
        while (elapsed_s := time.monotonic() - started_s) < seconds:
            load.step()
            if elapsed_s - shown_s > 0.1:
                shown_s = elapsed_s
                note = f"{load.request_count / elapsed_s:,.0f} IOPS, {load.fault_count} faults"
                progress.update(task, completed=elapsed_s, note=note)
        load.drain()
        progress.update(task, completed=seconds)
    return time.monotonic() - started_s


def check_disk(load: VerifiedLoad, size_bytes: int, console: Console) -> None:
    """Read everything back through the engine."""
    with progress_bar(console) as progress:
        task = progress.add_task("reading back ", total=size_bytes, note="")
        load.verify_all(lambda done_bytes: progress.update(task, completed=done_bytes))


def check_image(load: VerifiedLoad, image: Path, console: Console) -> None:
    """Compare the image itself, once the engine has ended."""
    with progress_bar(console) as progress, image.open("rb") as file:
        task = progress.add_task("the image    ", total=image.stat().st_size, note="")
        while data := file.read(MIB):
            first_block = (file.tell() - len(data)) // load.model.block_bytes
            load.note_faults(load.model.faults(first_block, data))
            progress.update(task, completed=file.tell())


def progress_bar(console: Console) -> Progress:
    """A bar with the time that is left and a note."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console)


def read_workers(engine_pid: int | None, worker_count: int) -> WorkerCounters:
    """Requests done and nanoseconds busy of each worker, from the engine's state segment."""
    state = StateSegment.attach(f"{SEGMENT_PREFIX}{engine_pid}")
    try:
        return [state.worker_counters(index) for index in range(worker_count)]
    finally:
        state.close()


def operation_table(results: dict[RequestType, OperationResult], elapsed_s: float) -> Table:
    """A row for each type of request, and one for all of them."""
    table = Table(title="Requests")
    table.add_column("type")
    for heading in ("requests", "IOPS", "MiB/s", "p50 us", "p99 us", "p99.9 us"):
        table.add_column(heading, justify="right")
    every = Histogram()
    data_bytes = 0
    for request_type, result in results.items():
        if result.latencies.count:
            table.add_row(request_type.name, *operation_cells(result.latencies, result.data_bytes, elapsed_s))
            every.merge(result.latencies)
            data_bytes += result.data_bytes
    table.add_section()
    table.add_row("all", *operation_cells(every, data_bytes, elapsed_s))
    return table


def operation_cells(latencies: Histogram, data_bytes: int, elapsed_s: float) -> list[str]:
    """Count, IOPS, MiB/s and percentiles."""
    percentiles = (latencies.percentile(percent) / 1000 for percent in (50, 99, 99.9))
    return [
        f"{latencies.count:,}",
        f"{latencies.count / elapsed_s:,.0f}",
        f"{data_bytes / MIB / elapsed_s:,.1f}" if data_bytes else "",
        *(f"{percentile_us:,.0f}" for percentile_us in percentiles),
    ]


def worker_table(before: WorkerCounters, after: WorkerCounters, all_count: int, elapsed_s: float) -> Table:
    """A row for each worker: what it did, how long it was at it; and what the dispatcher did itself."""
    table = Table(title="Workers")
    table.add_column("worker")
    for heading in ("requests", "IOPS", "us each", "under way"):
        table.add_column(heading, justify="right")
    inline_count = all_count
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        count, busy_ns = new[0] - old[0], new[1] - old[1]
        inline_count -= count
        each_us = f"{busy_ns / count / 1000:,.1f}" if count else ""
        under_way = f"{busy_ns / NS_PER_S / elapsed_s:.2f}"  # on average; io_uring has several at once
        table.add_row(str(index), f"{count:,}", f"{count / elapsed_s:,.0f}", each_us, under_way)
    if inline_count > 0:
        table.add_row("dispatcher", f"{inline_count:,}", f"{inline_count / elapsed_s:,.0f}", "", "")
    return table


def run_guest(image: Path, options: argparse.Namespace, guest_options: list[str]) -> int:
    """Serve the image on a socket and boot a guest on it, which has this terminal."""
    with tempfile.TemporaryDirectory(prefix="ringblk-") as folder:
        socket_path = Path(folder, "socket")
        program = engine_command(
            f"--blk-file={image}",
            f"--workers={options.workers}",
            f"--num-queues={options.num_queues}",
            f"--direct={options.direct}",
        )
        command = [f"--socket-path={socket_path}" if part == "--fd={fd}" else part for part in program]
        engine = subprocess.Popen(
            command, start_new_session=True
        )  # the guest's control-C is not the engine's
        try:
            wait_for_socket(socket_path, engine)
            guest = Path(__file__).with_name("guest")
            queues = f"--num-queues={options.num_queues}"
            return subprocess.run([guest, socket_path, queues, *guest_options], check=False).returncode
        finally:
            engine.terminate()
            engine.wait()


def wait_for_socket(path: Path, engine: subprocess.Popen[bytes]) -> None:
    """Return when the engine listens. Raises `RunError` when it ends instead."""
    while not path.exists():
        if engine.poll() is not None:
            raise RunError(f"the engine ended with status {engine.returncode}")
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
