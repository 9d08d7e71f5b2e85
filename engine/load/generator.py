"""A load generator on the front end: steady loads on one or several queues, measured.

    with Frontend(engine_command("--blk-file=disk.img"), memory_size_bytes=load.memory_bytes) as disk:
        figures = generate_load(disk, load, seconds=5.0, backend_pids=lambda: [disk.backend_pid])

The loop for each request is compiled (load_queue.pyx) and runs without the interpreter's lock. A queue is
loaded by a thread of its own: polling drivers of several queues want a core each.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence

from ringblk.engine.frontend.buffer import Buffer
from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.load.cpu_clock import CpuTimes, cpu_times
from ringblk.engine.load.load import Load, LoadFigures
from ringblk.engine.load.queue import LoadQueue
from ringblk.shm.layout.histogram import Histogram

_NS_PER_S = 1_000_000_000
_SEED = 0x9E3779B97F4A7C15


def generate_load(
    frontend: Frontend,
    load: Load,
    *,
    seconds: float,
    warm_up_s: float = 0.5,
    backend_pids: Callable[[], Sequence[int]] = tuple,
) -> LoadFigures:
    """Keep the load up for `warm_up_s`, then measure it for `seconds`, and wait for what is in flight.

    `backend_pids` tells the back end's processes, which may come and go with the load.
    Writes go all over the disk and destroy what is there. Raises ValueError for a load that the disk or its
    queues are too small for, MemoryError where the front end's memory is, LoadFailed, BackendGone and
    DeviceBroken.
    """
    with frontend.allocate(load.memory_bytes - 4096, 4096) as buffer:
        queues = _load_queues(frontend, load, buffer)
        begin_ns = time.monotonic_ns() + int(warm_up_s * _NS_PER_S)
        end_ns = begin_ns + int(seconds * _NS_PER_S)
        runs = [_LoadThread(queue, begin_ns, end_ns) for queue in queues]
        try:
            for run in runs:
                run.start()
            before, after = _watch(begin_ns, end_ns, backend_pids, runs)
        finally:
            for queue in queues:
                queue.stopping = True
            for run in runs:
                run.join()
        for run in runs:
            if run.error is not None:
                raise run.error
        return _figures(load, queues, (end_ns - begin_ns) / _NS_PER_S, before, after)


class _LoadThread(threading.Thread):
    """Runs one queue's load; what it raised is in `error`."""

    def __init__(self, queue: LoadQueue, begin_ns: int, end_ns: int) -> None:
        super().__init__(daemon=True)
        self._queue = queue
        self._begin_ns = begin_ns
        self._end_ns = end_ns
        self.error: BaseException | None = None

    def run(self) -> None:
        """Called by start()."""
        try:
            self._queue.run(self._begin_ns, self._end_ns)
        except BaseException as error:  # raised again in the thread that waits
            self.error = error


def _load_queues(frontend: Frontend, load: Load, buffer: Buffer) -> list[LoadQueue]:
    if load.num_queues > frontend.num_queues:
        raise ValueError(f"a load on {load.num_queues} queues, the front end has {frontend.num_queues}")
    share_blocks = frontend.capacity_bytes // load.block_bytes
    if load.pattern == "sequential":
        share_blocks //= load.num_queues  # each queue reads a part of the disk from its begin to its end
    share_bytes = load.depth * load.block_bytes
    for start in range(0, buffer.size_bytes, 1 << 20):
        part = buffer.view[start : start + (1 << 20)]
        part[:] = os.urandom(len(part))  # written data is not to be compressible
    return [
        LoadQueue(
            frontend.queues[queue_index],
            buffer.part(queue_index * share_bytes, share_bytes),
            block_bytes=load.block_bytes,
            first_block=queue_index * share_blocks if load.pattern == "sequential" else 0,
            block_count=share_blocks,
            depth=load.depth,
            is_sequential=load.pattern == "sequential",
            read_percent=load.read_percent,
            seed=_SEED * (queue_index + 1) % (1 << 64),
        )
        for queue_index in range(load.num_queues)
    ]


def _watch(
    begin_ns: int, end_ns: int, backend_pids: Callable[[], Sequence[int]], runs: Sequence[_LoadThread]
) -> tuple[CpuTimes, CpuTimes]:
    """CPU times at the begin and the end of the measured time; early when a thread has failed."""
    _sleep_until(begin_ns, runs)
    before = cpu_times(backend_pids())
    _sleep_until(end_ns, runs)
    return before, cpu_times(backend_pids())


def _sleep_until(deadline_ns: int, runs: Sequence[_LoadThread]) -> None:
    # One thread ends early only when it failed: waiting for it is waiting for the time and for that.
    left_s = (deadline_ns - time.monotonic_ns()) / _NS_PER_S
    if left_s > 0:
        runs[0].join(left_s)


def _figures(
    load: Load, queues: Sequence[LoadQueue], seconds: float, before: CpuTimes, after: CpuTimes
) -> LoadFigures:
    histogram = Histogram()
    for queue in queues:
        histogram.merge(queue.histogram)
    iops = histogram.count / seconds
    watched_s = max(after.at_s - before.at_s, 1e-9)
    driver = (after.own_s - before.own_s) / watched_s
    backend = (after.backend_s - before.backend_s) / watched_s
    machine = (after.machine_s - before.machine_s) / watched_s
    return LoadFigures(
        request_count=histogram.count,
        error_count=sum(queue.error_count for queue in queues),
        seconds=seconds,
        iops=iops,
        mib_per_s=iops * load.block_bytes / (1 << 20),
        mean_us=histogram.mean_ns / 1e3,
        p50_us=histogram.percentile(50) / 1e3,
        p99_us=histogram.percentile(99) / 1e3,
        p999_us=histogram.percentile(99.9) / 1e3,
        driver_us_per_io=driver / iops * 1e6 if iops else 0.0,
        backend_us_per_io=backend / iops * 1e6 if iops else 0.0,
        other_percent=max(0.0, machine - driver - backend) * 100,
    )
