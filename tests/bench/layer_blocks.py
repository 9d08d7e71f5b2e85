"""Reads and writes of copy-on-write drives, beside those of raw files and of qcow2 in qemu-storage-daemon."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from ringblk import Frontend
from ringblk.engine.load.load import Load
from ringblk.engine.load.queue import LoadQueue
from tests.bench.backends import BackendSpec, RunningBackend
from tests.bench.layer_figures import LayerReport
from tests.bench.processes import descendants
from tests.rigs.many_drives import ManyDrives

PROGRAM = (sys.executable, "-P", "-m", "ringblk", "serve")
"""As users have it: a drive at rest has no workers."""
TURN_BYTES = 1 << 30
"""Of a drive, for the first touches of one turn: hardly one block is drawn twice."""
KEPT_BYTES = 256 << 20
_DEPTH = 32
_TURN_NS = 100_000_000
_SEED = 0x9E3779B97F4A7C15
_PIECE_BYTES = 1 << 20
_RAW = "raw"
_OVERLAY = "overlay"
QCOW2 = {"qcow2": (), "qcow2 with extended_l2": ("-o", "extended_l2=on,cluster_size=128k")}
"""Options of `qemu-img create`: extended_l2 has 32 parts of a cluster, of 4 KiB each then."""


class Disk(msgspec.Struct, frozen=True):
    """A drive that is served, and who serves it."""

    frontend: Frontend
    pids: Callable[[], list[int]]


Serving = Callable[[], Iterator[Disk]]


def fill(path: Path, size_bytes: int) -> None:
    """Make a file whose blocks are all there."""
    with path.open("wb") as file:
        for _ in range(size_bytes // _PIECE_BYTES):
            file.write(os.urandom(_PIECE_BYTES))
        os.fsync(file.fileno())


def make_sparse(path: Path, size_bytes: int) -> None:
    """Make a file that has no block."""
    with path.open("wb") as file:
        file.truncate(size_bytes)


def storage_daemon_spec(base: Path) -> BackendSpec:
    """qemu-storage-daemon with a qcow2 image on a raw base."""
    file = "driver=file,aio=io_uring,cache.direct=on"
    export = "vhost-user-blk,id=e0,node-name=n0,writable=on,iothread=t0"
    return BackendSpec(
        "qsd",
        "qsd",
        [
            "qemu-storage-daemon",
            *("--object", "iothread,id=t0"),
            *("--blockdev", f"{file},node-name=b0,filename={base},read-only=on"),
            *("--blockdev", f"{file},node-name=f0,filename={{image}}"),
            *("--blockdev", "driver=qcow2,node-name=n0,file=f0,backing=b0"),
            *("--export", f"{export},addr.type=unix,addr.path={{socket}}"),
        ],
    )


def make_qcow2(image: Path, base: Path, options: tuple[str, ...]) -> None:
    """Make an image that has no block."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", *options, str(image)]
    subprocess.run(command, check=True)


@contextmanager
def served_by_daemon(image: Path, base: Path, load: Load) -> Iterator[Disk]:
    """A qcow2 image."""
    with (
        RunningBackend(storage_daemon_spec(base), image) as backend,
        Frontend(Path(backend.socket_path), memory_size_bytes=load.memory_bytes) as disk,
    ):
        yield Disk(disk, lambda: descendants(backend.pid))


@contextmanager
def served_by_engine(engine: ManyDrives, name: str, load: Load, **settings: object) -> Iterator[Disk]:
    """A drive that there is for a while."""
    status, body = engine.put(name, **settings)
    if status >= 300:
        raise RuntimeError(body)
    try:
        with engine.frontend(name, memory_size_bytes=load.memory_bytes) as disk:
            yield Disk(disk, lambda: sorted(engine.processes(name)))
    finally:
        engine.delete(name)


def has_storage_daemon() -> bool:
    """Whether there is something to compare with."""
    return all(shutil.which(name) for name in ("qemu-storage-daemon", "qemu-img"))


class Subjects:
    """What is compared in one folder, by name; each is made anew, or was made before."""

    def __init__(self, engine: ManyDrives, folder: Path, base: Path, load: Load) -> None:
        self._engine = engine
        self._folder = folder
        self._base = base
        self._load = load
        self.names = [_RAW, _OVERLAY, *(QCOW2 if has_storage_daemon() else ())]

    def make(self, name: str, size_bytes: int) -> Path:
        """One that has no block yet, or with the raw file a sparse one."""
        path = self._folder / name
        if name == _RAW:
            make_sparse(path, size_bytes)
        elif name != _OVERLAY:
            make_qcow2(path, self._base, QCOW2[name])
        return path

    @contextmanager
    def serve(self, name: str, path: Path) -> Iterator[Disk]:
        """Serve it."""
        with ExitStack() as stack:
            if name == _RAW:
                disk = served_by_engine(self._engine, "raw", self._load, blk_file=str(path))
            elif name == _OVERLAY:
                settings = {"base": str(self._base), "overlay": str(path)}
                disk = served_by_engine(self._engine, "overlay", self._load, **settings)
            else:
                disk = served_by_daemon(path, self._base, self._load)
            yield stack.enter_context(disk)

    def remove(self, name: str) -> None:
        """Remove its files."""
        path = self._folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class Turns:
    """What each subject has come to. Turns are short, so what else a machine does hits all alike."""

    def __init__(self, names: list[str]) -> None:
        self.iops: dict[str, list[float]] = {name: [] for name in names}
        self._request_counts = dict.fromkeys(names, 0)
        self._cpu_s = dict.fromkeys(names, 0.0)

    def take(self, name: str, disk: Disk, load: Load, first_byte: int, size_bytes: int) -> None:
        """One turn of one of them, in a part of the drive."""
        pids = disk.pids()
        with disk.frontend.allocate(load.memory_bytes - 4096, 4096) as buffer:
            queue = LoadQueue(
                disk.frontend.queues[0],
                buffer,
                block_bytes=load.block_bytes,
                first_block=first_byte // load.block_bytes,
                block_count=size_bytes // load.block_bytes,
                depth=load.depth,
                is_sequential=False,
                read_percent=load.read_percent,
                seed=_SEED + len(self.iops[name]),
            )
            begin_ns, before_s = time.monotonic_ns(), cpu_s(pids)
            queue.run(begin_ns, begin_ns + _TURN_NS)
            took_ns = time.monotonic_ns() - begin_ns
        count = queue.started_count
        if queue.error_count:
            raise RuntimeError(f"{name}: {queue.error_count} requests failed")
        self._cpu_s[name] += cpu_s(disk.pids()) - before_s
        self._request_counts[name] += count
        self.iops[name].append(count / took_ns * 1e9)

    def report(self, report: LayerReport, what: str) -> None:
        """All of it."""
        report.compare(what, self.iops, _RAW)
        for name, count in self._request_counts.items():
            report.add(f"{what}: {name}, CPU of the back end", "us", [self._cpu_s[name] / count * 1e6])


def cpu_s(pids: list[int]) -> float:
    """CPU time of processes, all threads, to the nanosecond (`/proc/PID/schedstat`)."""
    total_ns = 0
    for pid in pids:
        with suppress(OSError):  # it has gone
            for task in Path(f"/proc/{pid}/task").iterdir():
                total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def measure_first_touch(report: LayerReport, folder: Path, rounds: int) -> None:
    """Random writes to blocks that are not there yet: each turn has a part of the drive for itself."""
    base = folder / "base"
    size_bytes = (rounds + 1) * TURN_BYTES
    make_sparse(base, size_bytes)
    load = Load(depth=_DEPTH, read_percent=0)
    with ManyDrives({}, program=PROGRAM) as engine, ExitStack() as stack:
        subjects = Subjects(engine, folder, base, load)
        turns = Turns(subjects.names)
        disks = {
            name: stack.enter_context(subjects.serve(name, subjects.make(name, size_bytes)))
            for name in subjects.names
        }
        for number in range(rounds):
            for name, disk in in_turn(disks, number):
                turns.take(name, disk, load, number * TURN_BYTES, TURN_BYTES)
        turns.report(report, "first touch")
    for name in subjects.names:
        subjects.remove(name)


def measure_again(report: LayerReport, folder: Path, rounds: int) -> None:
    """Reads through to the base, then reads and writes of blocks that are there."""
    base = folder / "base"
    fill(base, KEPT_BYTES)
    writes, reads = Load(depth=_DEPTH, read_percent=0), Load(depth=_DEPTH)
    with ManyDrives({}, program=PROGRAM) as engine, ExitStack() as stack:
        subjects = Subjects(engine, folder, base, Load(depth=_DEPTH, block_bytes=128 << 10))
        disks = {}
        for name in subjects.names:
            path = subjects.make(name, KEPT_BYTES)
            if name == _RAW:
                fill(path, KEPT_BYTES)
            disks[name] = stack.enter_context(subjects.serve(name, path))
        for what, load in (
            ("read through to the base", reads),
            ("read of own blocks", reads),
            ("rewrite", writes),
        ):
            turns = Turns(subjects.names)
            for number in range(rounds):
                for name, disk in in_turn(disks, number):
                    turns.take(name, disk, load, 0, KEPT_BYTES)
            turns.report(report, what)
            if what == "read through to the base":
                for disk in disks.values():
                    _write_all(disk.frontend)


def in_turn(disks: dict[str, Disk], number: int) -> list[tuple[str, Disk]]:
    """Each begins a round as often as the others."""
    order = list(disks.items())
    place = number % len(order)
    return order[place:] + order[:place]


def _write_all(disk: Frontend) -> None:
    """Write each block once."""
    for offset in range(0, disk.capacity_bytes, 128 << 10):
        disk.write(offset, os.urandom(128 << 10))
