"""An engine's statistics for Prometheus, in its text format."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ringblk.engine.base.version import package_version
from ringblk.engine.statistics.statistics import OperationSnapshot, StatisticsSnapshot
from ringblk.shm.layout.histogram import Histogram

BOUNDS_NS = [1 << exponent for exponent in range(10, 36)]
"""Upper bounds of the histograms' buckets: the powers of two from a microsecond to half a minute.

They are exact: bounds of the engine's own, finer buckets.
"""


def exposition(snapshot: StatisticsSnapshot, engine: str) -> bytes:
    """The text of one scrape. Counters go on over restarts of dispatcher and workers.

    Every series has the labels `drive`, the drive's name, and `engine`: drives may have the same name, as
    two in memory do, but one scrape holds no series that another engine's on this machine has too.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(snapshot, {"drive": snapshot.drive, "engine": engine}))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: StatisticsSnapshot, identity: dict[str, str]) -> None:
        self._snapshot = snapshot
        self._identity = identity

    def collect(self) -> Iterator[Metric]:
        for metric in self._collect():
            metric.samples = [
                sample._replace(labels={**self._identity, **sample.labels}) for sample in metric.samples
            ]
            yield metric

    def _collect(self) -> Iterator[Metric]:
        yield from _engine_metrics(self._snapshot)
        yield from _operation_metrics(self._snapshot.operations)
        yield from _queue_metrics(self._snapshot)
        yield from _worker_metrics(self._snapshot)


def _engine_metrics(snapshot: StatisticsSnapshot) -> Iterator[Metric]:
    yield InfoMetricFamily("ringblk", "The engine and its drive.", value={"version": package_version()})
    yield GaugeMetricFamily("ringblk_uptime_seconds", "Since the start.", snapshot.uptime_ns / 1e9)
    yield GaugeMetricFamily("ringblk_capacity_bytes", "Size of the drive.", snapshot.capacity_bytes)
    yield GaugeMetricFamily("ringblk_paused", "1 while paused by the control API.", snapshot.is_paused)
    yield GaugeMetricFamily(
        "ringblk_oldest_request_age_seconds",
        "How long the oldest request in flight has been in flight; 0 if none is.",
        snapshot.oldest_request_ns / 1e9,
    )
    yield CounterMetricFamily(
        "ringblk_dispatcher_restarts", "Dispatchers that died.", snapshot.dispatcher_restart_count
    )


def _operation_metrics(operations: Sequence[OperationSnapshot]) -> Iterator[Metric]:
    for name, text, field, scale in (
        ("ringblk_requests", "Requests completed.", "request_count", 1),
        ("ringblk_request_bytes", "Bytes of requests that succeeded.", "byte_count", 1),
        ("ringblk_request_errors", "Requests completed with an error.", "error_count", 1),
        ("ringblk_throttled_requests", "Requests that waited for tokens.", "throttled_count", 1),
        ("ringblk_throttled_seconds", "Time that requests waited for tokens.", "throttled_ns", 1e9),
    ):
        counter = CounterMetricFamily(name, text, labels=["operation"])
        for operation in operations:
            counter.add_metric([operation.operation], getattr(operation, field) / scale)
        yield counter
    for name, text, field in (
        ("ringblk_queue_wait_seconds", "From a request's popping to the start of its I/O.", "queue_wait"),
        ("ringblk_service_seconds", "From the start of a request's I/O to its end.", "service"),
    ):
        family = HistogramMetricFamily(name, text, labels=["operation"])
        for operation in operations:
            histogram = getattr(operation, field)
            family.add_metric([operation.operation], _buckets(histogram), histogram.sum_ns / 1e9)
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    counts = histogram.counts_below(BOUNDS_NS)
    buckets = [
        (repr(bound_ns / 1e9), float(count)) for bound_ns, count in zip(BOUNDS_NS, counts, strict=True)
    ]
    return [*buckets, ("+Inf", float(histogram.count))]


def _queue_metrics(snapshot: StatisticsSnapshot) -> Iterator[Metric]:
    depth = GaugeMetricFamily("ringblk_queue_depth", "Requests in flight.", labels=["queue"])
    broken = GaugeMetricFamily("ringblk_queue_broken", "1 while broken.", labels=["queue"])
    kicks = CounterMetricFamily("ringblk_queue_kicks", "Kicks by the driver.", labels=["queue"])
    calls = CounterMetricFamily("ringblk_queue_calls", "Calls to the driver.", labels=["queue"])
    suppressed = CounterMetricFamily(
        "ringblk_queue_suppressed_calls", "Batches that the driver wanted no call for.", labels=["queue"]
    )
    for queue in snapshot.queues:
        labels = [str(queue.queue_index)]
        depth.add_metric(labels, queue.depth)
        broken.add_metric(labels, queue.broken is not None)
        kicks.add_metric(labels, queue.kick_count)
        calls.add_metric(labels, queue.call_count)
        suppressed.add_metric(labels, queue.suppressed_call_count)
    yield from (depth, broken, kicks, calls, suppressed)


def _worker_metrics(snapshot: StatisticsSnapshot) -> Iterator[Metric]:
    requests = CounterMetricFamily("ringblk_worker_requests", "Requests carried out.", labels=["worker"])
    busy = CounterMetricFamily("ringblk_worker_busy_seconds", "Time spent on requests.", labels=["worker"])
    restarts = CounterMetricFamily("ringblk_worker_restarts", "Workers that died.", labels=["worker"])
    for worker in snapshot.workers:
        labels = [str(worker.worker_index)]
        requests.add_metric(labels, worker.request_count)
        busy.add_metric(labels, worker.busy_ns / 1e9)
        restarts.add_metric(labels, worker.restart_count)
    yield from (requests, busy, restarts)
