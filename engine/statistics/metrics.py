"""What drives do, for Prometheus: its text format 0.0.4, any number of drives in one exposition."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ringblk.engine.base.version import VERSION
from ringblk.engine.statistics.statistics import (
    OperationSnapshot,
    QueueSnapshot,
    StatisticsSnapshot,
    WorkerSnapshot,
)
from ringblk.shm.layout.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_NS = [1 << exponent for exponent in range(10, 36)]
"""Upper bounds of the histograms' buckets: the powers of two from a microsecond to half a minute.

They are exact: bounds of the engine's own, finer buckets.
"""


class Sample(NamedTuple):
    """One line: a value, and what tells it from the others of its family and drive."""

    value: float
    labels: Sequence[tuple[str, str]] = ()
    suffix: str = ""
    """What a histogram's lines have besides the family's name."""


class Family(NamedTuple):
    """A metric of all drives."""

    name: str
    kind: str
    text: str
    samples: Callable[[StatisticsSnapshot], Iterable[Sample]]


def exposition(drives: Iterable[tuple[StatisticsSnapshot, str]]) -> bytes:
    """The text of one scrape, of drives and the engines that they are of. Counters go on over restarts.

    Every series has the labels `drive`, the drive's name, and `engine`: drives may have the same name, as
    two in memory do, so no two of an engine's may.
    """
    identified = [
        (snapshot, f"drive={_quoted(snapshot.drive)},engine={_quoted(engine)}") for snapshot, engine in drives
    ]
    lines: list[str] = []
    for family in FAMILIES:
        lines.append(f"# HELP {family.name} {family.text}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for snapshot, identity in identified:
            for value, labels, suffix in family.samples(snapshot):
                own = "".join(f",{name}={_quoted(text)}" for name, text in labels)
                lines.append(f"{family.name}{suffix}{{{identity}{own}}} {value!r}")
    return "\n".join([*lines, ""]).encode()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'"{escaped}"'


def _of_drive(name: str, kind: str, text: str, value: Callable[[StatisticsSnapshot], float]) -> Family:
    return Family(name, kind, text, lambda snapshot: [Sample(value(snapshot))])


def _of_operations(name: str, text: str, value: Callable[[OperationSnapshot], float]) -> Family:
    return Family(
        name,
        "counter",
        text,
        lambda snapshot: [
            Sample(value(operation), [("operation", operation.operation)])
            for operation in snapshot.operations
        ],
    )


def _of_queues(name: str, kind: str, text: str, value: Callable[[QueueSnapshot], float]) -> Family:
    return Family(
        name,
        kind,
        text,
        lambda snapshot: [
            Sample(value(queue), [("queue", str(queue.queue_index))]) for queue in snapshot.queues
        ],
    )


def _of_workers(name: str, text: str, value: Callable[[WorkerSnapshot], float]) -> Family:
    return Family(
        name,
        "counter",
        text,
        lambda snapshot: [
            Sample(value(worker), [("worker", str(worker.worker_index))]) for worker in snapshot.workers
        ],
    )


def _histograms(name: str, text: str, histogram: Callable[[OperationSnapshot], Histogram]) -> Family:
    def samples(snapshot: StatisticsSnapshot) -> Iterator[Sample]:
        for operation in snapshot.operations:
            yield from _histogram_samples(histogram(operation), ("operation", operation.operation))

    return Family(name, "histogram", text, samples)


def _histogram_samples(histogram: Histogram, label: tuple[str, str]) -> Iterator[Sample]:
    for bound_ns, count in zip(BOUNDS_NS, histogram.counts_below(BOUNDS_NS), strict=True):
        yield Sample(count, [label, ("le", repr(bound_ns / 1e9))], "_bucket")
    yield Sample(histogram.count, [label, ("le", "+Inf")], "_bucket")
    yield Sample(histogram.sum_ns / 1e9, [label], "_sum")
    yield Sample(histogram.count, [label], "_count")


FAMILIES = (
    Family(
        "ringblk_info",
        "gauge",
        "The engine and its drive.",
        lambda snapshot: [Sample(1, [("version", VERSION)])],
    ),
    _of_drive("ringblk_uptime_seconds", "gauge", "Since the start.", lambda s: s.uptime_ns / 1e9),
    _of_drive("ringblk_capacity_bytes", "gauge", "Size of the drive.", lambda s: s.capacity_bytes),
    _of_drive("ringblk_paused", "gauge", "1 while paused by the control API.", lambda s: int(s.is_paused)),
    _of_drive(
        "ringblk_oldest_request_age_seconds",
        "gauge",
        "How long the oldest request in flight has been in flight; 0 if none is.",
        lambda s: s.oldest_request_ns / 1e9,
    ),
    _of_drive(
        "ringblk_dispatcher_restarts_total",
        "counter",
        "Dispatchers that died.",
        lambda s: s.dispatcher_restart_count,
    ),
    _of_operations("ringblk_requests_total", "Requests completed.", lambda o: o.request_count),
    _of_operations(
        "ringblk_request_bytes_total", "Bytes of requests that succeeded.", lambda o: o.byte_count
    ),
    _of_operations(
        "ringblk_request_errors_total", "Requests completed with an error.", lambda o: o.error_count
    ),
    _of_operations(
        "ringblk_throttled_requests_total", "Requests that waited for tokens.", lambda o: o.throttled_count
    ),
    _of_operations(
        "ringblk_throttled_seconds_total",
        "Time that requests waited for tokens.",
        lambda o: o.throttled_ns / 1e9,
    ),
    _histograms(
        "ringblk_queue_wait_seconds",
        "From a request's popping to the start of its I/O.",
        lambda o: o.queue_wait,
    ),
    _histograms(
        "ringblk_service_seconds", "From the start of a request's I/O to its end.", lambda o: o.service
    ),
    _of_queues("ringblk_queue_depth", "gauge", "Requests in flight.", lambda q: q.depth),
    _of_queues("ringblk_queue_broken", "gauge", "1 while broken.", lambda q: int(q.broken is not None)),
    _of_queues("ringblk_queue_kicks_total", "counter", "Kicks by the driver.", lambda q: q.kick_count),
    _of_queues("ringblk_queue_calls_total", "counter", "Calls to the driver.", lambda q: q.call_count),
    _of_queues(
        "ringblk_queue_suppressed_calls_total",
        "counter",
        "Batches that the driver wanted no call for.",
        lambda q: q.suppressed_call_count,
    ),
    _of_workers("ringblk_worker_requests_total", "Requests carried out.", lambda w: w.request_count),
    _of_workers("ringblk_worker_busy_seconds_total", "Time spent on requests.", lambda w: w.busy_ns / 1e9),
    _of_workers("ringblk_worker_restarts_total", "Workers that died.", lambda w: w.restart_count),
)
"""All that there is, in the order in which it is shown."""
