"""What the engine costs at rest: wake-ups, memory, and the time it takes to start."""

import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.load.generator import generate_load
from ringblk.engine.load.load import Load
from tests.bench.backends import BackendSpec, RunningBackend
from tests.bench.processes import context_switches, descendants, memory_kib

_START_TIMEOUT_S = 30.0
_SETTLE_S = 11.0
"""Workers that have nothing to do go after 5 to 10 seconds."""


class IdleCosts(msgspec.Struct, frozen=True):
    """A session after some load, `seconds` long without a request, from eleven after the last one on."""

    seconds: float
    context_switches: dict[str, int]
    memory_kib: dict[str, dict[str, int]]
    pss_mib: float


def idle_costs(spec: BackendSpec, image: Path, seconds: float) -> IdleCosts:
    """Connect, do some work, stop, wait a second, and count."""
    load = Load(depth=16)
    with (
        RunningBackend(spec, image) as backend,
        Frontend(backend.socket_path, memory_size_bytes=load.memory_bytes) as disk,
    ):
        generate_load(disk, load, seconds=0.5, warm_up_s=0.1)
        time.sleep(_SETTLE_S)
        pids = descendants(backend.pid)
        before = context_switches(pids)
        time.sleep(seconds)
        after = context_switches(pids)
        memory = memory_kib(pids)
    return IdleCosts(
        seconds=seconds,
        context_switches={name: after[name] - before.get(name, 0) for name in after},
        memory_kib=memory,
        pss_mib=sum(parts["Pss"] for parts in memory.values()) / 1024,
    )


def print_idle(name: str, costs: IdleCosts) -> None:
    """A line for each process."""
    print(
        f"\n{name}, idle for {costs.seconds:g} s:\n  {'':30} {'switches':>8} {'PSS KiB':>8} {'anon':>8}"
        f" {'file':>8} {'shmem':>8}"
    )
    for process, parts in costs.memory_kib.items():
        print(
            f"  {process:30} {costs.context_switches[process]:8} {parts['Pss']:8} {parts['Pss_Anon']:8}"
            f" {parts['Pss_File']:8} {parts['Pss_Shmem']:8}"
        )
    switches = sum(costs.context_switches.values())
    print(f"  {'together':30} {switches:8} {costs.pss_mib:7.1f}M  (goals: 0, and 30M for the engine)")


def start_times_ms(spec: BackendSpec, image: Path, count: int) -> list[float]:
    """From exec to a socket that accepts, in milliseconds, `count` times.

    Once before that: then bytecode is there, as an installation leaves it, and the page cache is warm.
    """
    return [_start_ms(spec, image) for _ in range(1 + count)][1:]


def _start_ms(spec: BackendSpec, image: Path) -> float:
    with tempfile.TemporaryDirectory(prefix="ringblk-bench-") as folder:
        path = str(Path(folder, "socket"))
        command = [part.format(socket=path, image=image) for part in spec.command]
        environment = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
        begin = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        try:
            _connect(path, begin + _START_TIMEOUT_S)
            return (time.perf_counter() - begin) * 1e3
        finally:
            process.terminate()
            process.wait(10.0)


def _connect(path: str, deadline: float) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        while True:
            try:
                return connection.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                if time.perf_counter() > deadline:
                    raise
                time.sleep(0.0005)


def print_start(name: str, times_ms: Sequence[float]) -> None:
    """Median and range."""
    print(
        f"\n{name}, exec to a socket that accepts, {len(times_ms)} times:"
        f" median {statistics.median(times_ms):.0f} ms, {min(times_ms):.0f} to {max(times_ms):.0f} ms"
        " (goal: 150)"
    )
