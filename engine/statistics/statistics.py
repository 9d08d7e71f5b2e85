"""What a running engine has done and is doing, read from its state segment by anyone."""

import contextlib
import time
from typing import Any, Literal

import msgspec

from ringblk.engine.devices.kinds import read_capacity_bytes
from ringblk.engine.drives.base_status import BaseStatus
from ringblk.shm.layout.histogram import Histogram
from ringblk.shm.queues.virtqueue import BROKEN_REASONS
from ringblk.shm.state.reader import (
    read_engine,
    read_engine_name,
    read_inflight,
    read_operation,
    read_queue,
    read_workers,
)
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.answers import ServerConnection

DriveState = Literal["broken", "paused", "connected", "waiting"]
"""The first that holds: a queue is broken; requests are not popped; a front end is served; none is."""


class OperationSnapshot(msgspec.Struct, frozen=True):
    """Completed requests of one kind since the engine's start; bytes are those of requests that succeeded.

    `queue_wait` runs from a chain's popping to the start of its I/O and holds the wait for tokens,
    `service` from there to its end.
    """

    operation: str
    request_count: int
    byte_count: int
    error_count: int
    throttled_count: int
    throttled_ns: int
    queue_wait: Histogram
    service: Histogram


class QueueSnapshot(msgspec.Struct, frozen=True):
    """One virtqueue: `depth` requests are in flight; why it is `broken`, or None."""

    queue_index: int
    depth: int
    kick_count: int
    call_count: int
    suppressed_call_count: int
    popped_count: int
    used_count: int
    broken: str | None


class WorkerSnapshot(msgspec.Struct, frozen=True):
    """One worker; `pid` 0: there is no process now. The counts are those of its index, whoever held it."""

    worker_index: int
    pid: int
    request_count: int
    busy_ns: int
    restart_count: int
    held_count: int


class StatisticsSnapshot(msgspec.Struct, frozen=True):
    """One drive at one moment. Each number is whole; two of them may be a moment apart."""

    name: str
    drive: str
    """What its engine calls it; its storage where that has one without a name."""
    storage: str
    """The image's path, or the backend's name."""
    engine: str
    """What its engine is called (engine/drives/engine_name.py); its process id where it has no name."""
    taken_ns: int
    uptime_ns: int
    supervisor_pid: int
    dispatcher_pid: int
    dispatcher_restart_count: int
    capacity_bytes: int
    is_paused: bool
    is_connected: bool
    """Whether a front end is served."""
    oldest_request_ns: int
    operations: list[OperationSnapshot]
    queues: list[QueueSnapshot]
    workers: list[WorkerSnapshot]
    worker_limit: int
    """Workers that there may be."""
    server: ServerConnection | None = None
    """How it stands with the server that keeps its bytes: what the control plane alone knows."""
    base: BaseStatus | None = None
    """The same of a base that is fetched."""

    @property
    def state(self) -> DriveState:
        """What is most to be said of it."""
        if any(queue.broken for queue in self.queues):
            return "broken"
        if self.is_paused:
            return "paused"
        return "connected" if self.is_connected else "waiting"

    @property
    def depth(self) -> int:
        """Requests in flight."""
        return sum(queue.depth for queue in self.queues)

    @property
    def workers_up(self) -> int:
        """Workers that there are now; none at rest."""
        return sum(worker.pid != 0 for worker in self.workers)


def take_snapshot(state: StateSegment) -> StatisticsSnapshot:
    """Read everything once. The engine goes on meanwhile."""
    if not state.is_copy:
        with contextlib.closing(state.copy()) as copied:
            return take_snapshot(copied)
    (
        drive,
        storage,
        supervisor_pid,
        dispatcher_pid,
        restarts,
        queue_count,
        is_paused,
        started_ns,
        worker_limit,
    ) = read_engine(state)
    taken_ns = time.monotonic_ns()
    depths, oldest_request_ns = read_inflight(state)
    return StatisticsSnapshot(
        name=state.name,
        drive=drive or storage,
        storage=storage,
        engine=read_engine_name(state) or str(supervisor_pid),
        taken_ns=taken_ns,
        uptime_ns=taken_ns - started_ns,
        supervisor_pid=supervisor_pid,
        dispatcher_pid=dispatcher_pid,
        dispatcher_restart_count=restarts,
        capacity_bytes=read_capacity_bytes(state),
        is_paused=is_paused,
        is_connected=state.is_connected,
        oldest_request_ns=oldest_request_ns,
        operations=[
            OperationSnapshot(*read_operation(state, operation))
            for operation in (*range(1, state.operation_count), 0)  # "other" in the end
        ],
        queues=[_read_queue(state, index, depths[index]) for index in range(queue_count)],
        workers=[WorkerSnapshot(*values) for values in read_workers(state)],
        worker_limit=worker_limit,
    )


def _read_queue(state: StateSegment, queue_index: int, depth: int) -> QueueSnapshot:
    reason, kicks, calls, suppressed_calls, popped, used = read_queue(state, queue_index)
    broken = BROKEN_REASONS.get(reason, f"reason {reason}") if reason else None
    return QueueSnapshot(queue_index, depth, kicks, calls, suppressed_calls, popped, used, broken)


class LatencySummary(msgspec.Struct, frozen=True):
    """A histogram in few words."""

    count: int
    mean_ns: int
    p50_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int


def summarize(histogram: Histogram) -> LatencySummary:
    """Percentiles of a histogram; all 0 when it is empty."""
    count = histogram.count
    return LatencySummary(
        count=count,
        mean_ns=histogram.sum_ns // count if count else 0,
        p50_ns=histogram.percentile(50),
        p99_ns=histogram.percentile(99),
        p999_ns=histogram.percentile(99.9),
        max_ns=histogram.percentile(100),
    )


def encode_json(value: Any) -> bytes:
    """A snapshot, or some, as JSON; histograms as their summaries."""
    return msgspec.json.encode(value, enc_hook=_encode_histogram)


def _encode_histogram(value: Any) -> LatencySummary:
    if isinstance(value, Histogram):
        return summarize(value)
    raise NotImplementedError(f"cannot encode a {type(value).__name__}")
