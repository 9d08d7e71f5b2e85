"""Limits on a real clock: engines under a load, and the completions that their own counters show.

A rate is taken from one completion to another, not from a count in a fixed time: at one request a second the
fixed time would be off by a request, which is not the limit's fault.
"""

import contextlib
import http.client
import json
import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.load.cpu_clock import cpu_times
from ringblk.engine.load.load import Load
from ringblk.engine.load.queue import LoadQueue
from ringblk.shm.state.reader import read_queue
from ringblk.shm.state.segment import SEGMENT_PREFIX, StateSegment
from tests.bench.backends import RunningBackend, engine_spec
from tests.bench.limit_cases import LimitCase
from tests.bench.processes import descendants

WARM_UP_S = 1.0
WINDOW_S = 0.01
PATCH_TIMEOUT_S = 1.0
PATCH_TOLERANCE = 0.1
_EDGE_TIMEOUT_S = 15.0
_EDGE_LOOK_S = 0.0001
_USED_COUNT = 5  # in what read_queue gives


class Measured(msgspec.Struct, frozen=True):
    """A rate in the units of the limit, and the CPU time that others used meanwhile, in percent of a core."""

    rate: float
    seconds: float
    other_percent: float


class LoadedEngines:
    """Engines with these options, each on an image of its own and under a load, until close()."""

    def __init__(self, options: Sequence[str], load: Load, images: Sequence[Path]) -> None:
        self._closing = contextlib.ExitStack()
        self._queues: list[LoadQueue] = []
        self._threads: list[threading.Thread] = []
        self._states: list[StateSegment] = []
        self.pids: list[int] = []
        with self._closing:
            for image in images:
                self._start(options, load, image)
            self._closing.callback(self._stop_loads)
            for queue in self._queues:
                thread = threading.Thread(target=queue.run, args=(0, 1 << 63), daemon=True)
                thread.start()
                self._threads.append(thread)
            self._closing = self._closing.pop_all()

    def _start(self, options: Sequence[str], load: Load, image: Path) -> None:
        backend = self._closing.enter_context(RunningBackend(engine_spec(options), image))
        disk = Frontend(backend.socket_path, memory_size_bytes=load.memory_bytes, queue_size=256)
        self._closing.enter_context(disk)
        buffer = self._closing.enter_context(disk.allocate(load.depth * load.block_bytes, 4096))
        queue = LoadQueue(
            disk.queues[0],
            buffer,
            block_bytes=load.block_bytes,
            first_block=0,
            block_count=disk.capacity_bytes // load.block_bytes,
            depth=load.depth,
            is_sequential=False,
            read_percent=load.read_percent,
            seed=len(self._queues) + 1,
        )
        self._queues.append(queue)
        state = StateSegment.attach(f"{SEGMENT_PREFIX}{backend.pid}")
        self._closing.callback(state.close)
        self._states.append(state)
        self.pids += descendants(backend.pid)

    def _stop_loads(self) -> None:
        for queue in self._queues:
            queue.stopping = True
        for thread in self._threads:
            thread.join()
        failed = sum(queue.error_count for queue in self._queues)
        if failed:
            raise RuntimeError(f"{failed} requests failed: the figures are worth nothing")
        self._queues.clear()  # they hold the queues that are about to be closed

    def done_count(self) -> int:
        """Requests completed so far, by all engines."""
        return sum(read_queue(state, 0)[_USED_COUNT] for state in self._states)

    def next_edge(self) -> tuple[int, int]:
        """The time of the next completion, and the count with it."""
        before = self.done_count()
        deadline = time.monotonic() + _EDGE_TIMEOUT_S
        while time.monotonic() < deadline:
            count, now_ns = self.done_count(), time.monotonic_ns()
            if count != before:
                return now_ns, count
            time.sleep(_EDGE_LOOK_S)
        raise TimeoutError("no request was completed")

    def close(self) -> None:
        """End the engines; the loads end with them."""
        self._closing.close()

    def __enter__(self) -> "LoadedEngines":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def measure(engines: LoadedEngines, tokens_per_request: int, seconds: float) -> Measured:
    """The rate over at least so many seconds, once the burst is spent."""
    time.sleep(WARM_UP_S)
    before = cpu_times(engines.pids)
    begin_ns, begin_count = engines.next_edge()
    time.sleep(seconds)
    end_ns, end_count = engines.next_edge()
    after = cpu_times(engines.pids)
    watched_s = after.at_s - before.at_s
    used_s = (after.machine_s - before.machine_s) - (after.own_s - before.own_s)
    other_s = used_s - (after.backend_s - before.backend_s)
    measured_s = (end_ns - begin_ns) / 1e9
    return Measured(
        rate=(end_count - begin_count) * tokens_per_request / measured_s,
        seconds=measured_s,
        other_percent=max(0.0, other_s / watched_s * 100),
    )


def run_case(
    case: LimitCase, engine_options: Sequence[str], images: Sequence[Path], seconds: float, limited: bool
) -> Measured:
    """One case, or the same load without the limit."""
    options = [*engine_options, f"--workers={case.workers}"]
    if limited:
        options.append(f"--{case.option.replace('_', '-')}={case.rate}")
    if limited and case.engine_count > 1:
        options.append(f"--rate-group=bench-{os.getpid()}")
    with LoadedEngines(options, case.load, images[: case.engine_count]) as engines:
        return measure(engines, case.tokens_per_request, seconds)


def patch_times(
    engine_options: Sequence[str], image: Path, rates: Sequence[int], burst: int | None
) -> list[float]:
    """For each rate, how many seconds after PATCH's answer the measured bytes a second are that rate's.

    `burst` goes with each change, None for the default. The time is the end of the first of
    two windows of 10 ms in a row that are both within a tenth of the new rate.
    """
    load = Load(depth=32)
    with tempfile.TemporaryDirectory(prefix="ringblk-bench-") as folder:
        control = str(Path(folder, "control"))
        options = [*engine_options, f"--control={control}", f"--bps={rates[-1]}"]
        with LoadedEngines(options, load, [image]) as engines:
            time.sleep(WARM_UP_S)
            found = []
            for rate in rates:
                _patch(control, {"bps": rate} | ({"burst": burst} if burst else {}))
                found.append(_time_to_hold(engines, rate / load.block_bytes))
                time.sleep(0.2)
            return found


def _time_to_hold(engines: LoadedEngines, rate: float) -> float:
    answered_ns = begin_ns = time.monotonic_ns()
    count = engines.done_count()
    held_ns = 0
    while begin_ns - answered_ns < PATCH_TIMEOUT_S * 1e9:
        time.sleep(WINDOW_S)
        now_count, now_ns = engines.done_count(), time.monotonic_ns()
        measured = (now_count - count) / (now_ns - begin_ns) * 1e9
        if abs(measured / rate - 1) > PATCH_TOLERANCE:
            held_ns = 0
        elif held_ns:
            return (held_ns - answered_ns) / 1e9
        else:
            held_ns = now_ns
        count, begin_ns = now_count, now_ns
    return math.inf


def _patch(control: str, body: dict[str, int]) -> None:
    connection = http.client.HTTPConnection("localhost", timeout=10.0)
    with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as unix:
        unix.connect(control)
        connection.sock = unix
        connection.request("PATCH", "/drive", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"PATCH /drive: {answer.status} {text!r}")
