"""What layers cost beside speed: bytes written, flushes, memory, and a snapshot when much is dirty."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ringblk import Frontend
from ringblk.engine.load.generator import generate_load
from ringblk.engine.load.load import Load
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.overlay import OverlayBackend
from tests.bench.layer_blocks import PROGRAM, make_sparse
from tests.bench.layer_chain import make_layers
from tests.bench.layer_figures import LayerReport
from tests.bench.layer_load import Writer, asking
from tests.rigs.many_drives import ManyDrives

MIB = 1 << 20
_BLOCK_BYTES = 4096
_TOUCHED_BYTES = 2 << 30
_TOUCHES = 4096
_MAPPED_BYTES = 64 << 30
_DIRTY_BYTES = 2 << 30
_WINDOW_S = 1.0


class Pair:
    """A raw sparse file and an overlay on a base that is one, open in this process."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        make_sparse(folder / "sparse", size_bytes)
        make_sparse(folder / "sparse base", size_bytes)
        overlay = OverlayBackend(folder / "sparse base", folder / "pair")
        overlay.image_lock().lock()
        self.backends = {"raw": FileBackend(folder / "sparse"), "overlay": overlay}

    def close(self) -> None:
        """Close both."""
        for backend in self.backends.values():
            backend.close()


def written_bytes() -> int:
    """What this process has caused to be sent to a disk (`/proc/self/io`)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


def measure_bytes(report: LayerReport, folder: Path) -> None:
    """Bytes written for each byte of first touch; on a file system in memory nothing is counted."""
    for what, each in {"a flush at the end": _TOUCHES, "a flush every 32": 32}.items():
        place = folder / what
        place.mkdir()
        pair = Pair(place, _TOUCHED_BYTES)
        blocks = random.Random(1).sample(range(_TOUCHED_BYTES // _BLOCK_BYTES), _TOUCHES)
        data = random.Random(2).randbytes(_BLOCK_BYTES)
        for name, backend in pair.backends.items():
            before = written_bytes()
            for number, block in enumerate(blocks, 1):
                backend.write_at(block * _BLOCK_BYTES, data)
                if number % each == 0:
                    backend.flush()
            backend.flush()
            if name == "overlay":
                backend.close()
            ratio = (written_bytes() - before) / (_TOUCHES * _BLOCK_BYTES)
            if ratio:
                report.add(f"bytes written for each of first touch, {what}: {name}", "times", [ratio])
        pair.backends["raw"].close()


def measure_flushes(report: LayerReport, folder: Path, rounds: int) -> None:
    """A flush after a block that is there, and after one that is not yet."""
    place = folder / "flushes"
    place.mkdir()
    pair = Pair(place, _TOUCHED_BYTES)
    data = random.Random(1).randbytes(_BLOCK_BYTES)
    blocks = random.Random(2).sample(range(1, _TOUCHED_BYTES // _BLOCK_BYTES), 20 * rounds)
    for backend in pair.backends.values():
        backend.write_at(0, data)
        backend.flush()
    took: dict[str, dict[str, list[float]]] = {
        "a flush after a block that was there": {name: [] for name in pair.backends},
        "a flush after a new block": {name: [] for name in pair.backends},
    }
    for block in blocks:
        for (_, times), offset in zip(took.items(), (0, block * _BLOCK_BYTES), strict=True):
            for name, backend in pair.backends.items():
                backend.write_at(offset, data)
                begin_s = time.perf_counter()
                backend.flush()
                times[name].append((time.perf_counter() - begin_s) * 1e6)
    for what, times in took.items():
        for name, each in times.items():
            report.add(f"{what}: {name}", "us", each)
    pair.close()


def measure_memory(report: LayerReport, folder: Path, layer_count: int) -> None:
    """Memory of the maps of a drive of 64 GiB that was written to here and there; its processes share it."""
    base = folder / "large base"
    make_sparse(base, _MAPPED_BYTES)
    chains = {"2-layers": 2, "3-layers": 3, f"{layer_count}-layers": layer_count}
    for name, count in chains.items():
        make_layers(base, folder / name, count, _MAPPED_BYTES, 8 * MIB, _BLOCK_BYTES)
    settings = {name: {"base": str(base), "overlay": str(folder / name)} for name in ("1-layer", *chains)}
    with ManyDrives(settings, program=PROGRAM) as engine:
        for name in settings:
            with engine.frontend(name, memory_size_bytes=1 << 20) as disk:
                for offset in range(0, _MAPPED_BYTES, 64 * MIB):
                    disk.write(offset, bytes(_BLOCK_BYTES))
                for offset in range(0, _MAPPED_BYTES, 8 * MIB):
                    disk.read(offset, _BLOCK_BYTES)
                found = map_kib(engine.processes(name))
            for what, size_kib in found.items():
                each = size_kib * 1024 / (_MAPPED_BYTES / MIB)
                report.add(f"maps of a drive of 64 GiB, {name}: {what}, for each MiB", "bytes", [each])


def map_kib(pids: Iterable[int]) -> dict[str, int]:
    """Memory of a layer's files and an index that are mapped; what several processes map is there once."""
    found: dict[str, int] = {}
    for pid in pids:
        name = ""
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if "-" in line.split(" ")[0]:
                path = [*line.split(maxsplit=5), ""][5]
                name = "index" if "ringblk-index" in path else path.rpartition("/")[2]
            elif line.startswith("Rss:") and name in ("live", "map", "index"):
                found[name] = max(found.get(name, 0), int(line.split()[1]))
    return found


def measure_dirty_snapshots(report: LayerReport, folder: Path, rounds: int) -> None:
    """The longest gap of a snapshot just after 2 GiB were written, past the page cache and through it.

    Beside it that of a small file which this program makes in the same folder and flushes: a file system with
    a journal has all wait for that who get new blocks, whoever asks.
    """
    base = folder / "dirty base"
    make_sparse(base, 2 * _DIRTY_BYTES)
    filling = Load(depth=8, block_bytes=1 << 20, read_percent=0, pattern="sequential")
    for direct in ("auto", "off"):
        found: dict[str, list[float]] = {
            "nothing else": [],
            "a file is made and flushed beside": [],
            "a snapshot is taken": [],
        }
        for number in range(rounds):
            for what in found:
                with ExitStack() as stack:
                    overlay = folder / f"dirty {direct} {number} {what[:3]}"
                    settings = {"vm": {"base": str(base), "overlay": str(overlay), "direct": direct}}
                    engine = stack.enter_context(ManyDrives(settings, program=PROGRAM))
                    with engine.frontend("vm", memory_size_bytes=16 << 20) as disk:
                        written = 0
                        while written < _DIRTY_BYTES:
                            figures = generate_load(disk, filling, seconds=0.2, warm_up_s=0)
                            written += figures.request_count << 20
                        calls: dict[str, Callable[[], object]] = {
                            "a file is made and flushed beside": partial(_flush_new_file, folder / "small"),
                            "a snapshot is taken": partial(
                                engine.control.ask, "POST", "/drives/vm/snapshots", {"name": "now"}
                            ),
                        }
                        found[what].append(_gap(disk, calls.get(what)))
                shutil.rmtree(overlay)  # the next is to have as much space and as little to write back
                os.sync()
        how = {"auto": "past the page cache", "off": "through the page cache"}[direct]
        for what, gaps in found.items():
            report.add(f"2 GiB written {how}: longest gap, {what}", "ms", gaps)


def _flush_new_file(path: Path) -> None:
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(bytes(_BLOCK_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _gap(disk: Frontend, call: Callable[[], object] | None) -> float:
    """The longest time between two completions, while a call is made and thereafter."""
    writer = Writer(disk, 2 * _DIRTY_BYTES)
    longest_ms = 0.0
    if call is not None:
        with asking(call) as ask:
            longest_ms = writer.run_until(ask.is_done)
    longest_ms = max(longest_ms, writer.run_for(_WINDOW_S))
    writer.drain()
    return longest_ms
