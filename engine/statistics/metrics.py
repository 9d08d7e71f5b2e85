"""What drives do, for Prometheus: its text format 0.0.4, any number of drives in one exposition.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple, TypeVar

from ringblk.engine.base.version import VERSION
from ringblk.engine.drives.base_status import BaseStatus
from ringblk.engine.statistics.statistics import (
    OperationSnapshot,
    QueueSnapshot,
    StatisticsSnapshot,
    WorkerSnapshot,
)
from ringblk.shm.layout.histogram import Histogram
from ringblk.workers.backends.answers import ServerConnection

Part = TypeVar("Part")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_NS = [1 << exponent for exponent in range(10, 36)]
"""Upper bounds of the histograms' buckets: the powers of two from a microsecond to half a minute.

They are exact: bounds of the engine's own, finer buckets.
"""


class Family(NamedTuple):
    """A metric of all drives."""

    name: str
    kind: str
    text: str
    lines: Callable[[str, str, StatisticsSnapshot], Iterable[str]]
    """A drive's lines, of this family's name and the labels that every series of the drive has."""


class Exposition:
    """The text of one scrape, drive by drive. Counters go on over restarts."""

    def __init__(self) -> None:
        self._parts = [
            [f"# HELP {each.name} {each.text}\n# TYPE {each.name} {each.kind}\n"] for each in FAMILIES
        ]

    def add(self, snapshot: StatisticsSnapshot) -> None:
        """Add a drive, which no other of its engine has the name of.

        Every series has the labels `drive`, the drive's name, and `engine`: drives of two engines may have
        the same name, as two in memory do.
        """
        identity = f"drive={_quoted(snapshot.drive)},engine={_quoted(snapshot.engine)}"
        for family, parts in zip(FAMILIES, self._parts, strict=True):
            parts.extend(family.lines(family.name, identity, snapshot))

    def encoded(self) -> bytes:
        """All that was added, family by family; of servers and bases that no drive has, nothing."""
        shown = (
            parts
            for family, parts in zip(FAMILIES, self._parts, strict=True)
            if family not in _OF_SOME or len(parts) > 1
        )
        return "".join(chain.from_iterable(shown)).encode()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'"{escaped}"'


def _of_drive(name: str, kind: str, text: str, value: Callable[[StatisticsSnapshot], float]) -> Family:
    def lines(name: str, identity: str, snapshot: StatisticsSnapshot) -> list[str]:
        return [f"{name}{{{identity}}} {value(snapshot)!r}\n"]

    return Family(name, kind, text, lines)


def _of_operations(name: str, text: str, value: Callable[[OperationSnapshot], float]) -> Family:
    def lines(name: str, identity: str, snapshot: StatisticsSnapshot) -> list[str]:
        return [
            f"{name}{{{identity},operation={_quoted(operation.operation)}}} {value(operation)!r}\n"
            for operation in snapshot.operations
        ]

    return Family(name, "counter", text, lines)


def _of_queues(name: str, kind: str, text: str, value: Callable[[QueueSnapshot], float]) -> Family:
    def lines(name: str, identity: str, snapshot: StatisticsSnapshot) -> list[str]:
        return [
            f'{name}{{{identity},queue="{queue.queue_index}"}} {value(queue)!r}\n'
            for queue in snapshot.queues
        ]

    return Family(name, kind, text, lines)


def _of_workers(name: str, text: str, value: Callable[[WorkerSnapshot], float]) -> Family:
    def lines(name: str, identity: str, snapshot: StatisticsSnapshot) -> list[str]:
        return [
            f'{name}{{{identity},worker="{worker.worker_index}"}} {value(worker)!r}\n'
            for worker in snapshot.workers
        ]

    return Family(name, "counter", text, lines)


def _histograms(name: str, text: str, histogram: Callable[[OperationSnapshot], Histogram]) -> Family:
    bounds = [*(repr(bound_ns / 1e9) for bound_ns in BOUNDS_NS), "+Inf"]
    # One formatting for the buckets of an operation: they are most of all there is to write.
    bucket_lines = "".join(f'{name}_bucket{{%(labels)s,le="{bound}"}} %({bound})d\n' for bound in bounds)

    def lines(name: str, identity: str, snapshot: StatisticsSnapshot) -> Iterator[str]:
        for operation in snapshot.operations:
            labels = f"{identity},operation={_quoted(operation.operation)}"
            found = histogram(operation)
            counts = [*found.counts_below(BOUNDS_NS), found.count]
            yield bucket_lines % {"labels": labels, **dict(zip(bounds, counts, strict=True))}
            yield f"{name}_sum{{{labels}}} {found.sum_ns / 1e9!r}\n{name}_count{{{labels}}} {found.count}\n"

    return Family(name, "histogram", text, lines)


def _of_part(
    part: Callable[[StatisticsSnapshot], Part | None],
    name: str,
    kind: str,
    text: str,
    value: Callable[[Part], float],
) -> Family:
    """Of what not every drive has."""

    def lines(name: str, identity: str, snapshot: StatisticsSnapshot) -> list[str]:
        found = part(snapshot)
        return [] if found is None else [f"{name}{{{identity}}} {value(found)!r}\n"]

    return Family(name, kind, text, lines)


def _of_servers(name: str, kind: str, text: str, value: Callable[[ServerConnection], float]) -> Family:
    return _of_part(lambda snapshot: snapshot.server, name, kind, text, value)


def _of_bases(name: str, kind: str, text: str, value: Callable[[BaseStatus], float]) -> Family:
    return _of_part(lambda snapshot: snapshot.base, name, kind, text, value)


def _info(name: str, identity: str, snapshot: StatisticsSnapshot) -> list[str]:
    return [f"{name}{{{identity},version={_quoted(VERSION)}}} 1\n"]


_OF_SERVERS = (
    _of_servers(
        "ringblk_server_connected",
        "gauge",
        "1 while there is a connection to the server that keeps the bytes.",
        lambda s: int(s.is_connected),
    ),
    _of_servers("ringblk_server_connections", "gauge", "Connections to it.", lambda s: s.connection_count),
    _of_servers(
        "ringblk_server_state_seconds",
        "gauge",
        "For how long there has been a connection, or none.",
        lambda s: s.since_s,
    ),
    _of_servers(
        "ringblk_server_reconnects_total",
        "counter",
        "Connections that were made again.",
        lambda s: s.reconnect_count,
    ),
    _of_servers(
        "ringblk_server_requests",
        "gauge",
        "Requests that were begun and that the server has not answered.",
        lambda s: s.request_count,
    ),
)
"""Of drives whose bytes a server keeps: the control plane alone can tell."""

_OF_BASES = (
    _of_bases("ringblk_base_reads_total", "counter", "Reads of the drive's base.", lambda b: b.read_count),
    _of_bases(
        "ringblk_base_misses_total",
        "counter",
        "Those that something was fetched for.",
        lambda b: b.miss_count,
    ),
    _of_bases(
        "ringblk_base_fetcher",
        "gauge",
        "1 while there is a process that fetches.",
        lambda b: int(b.has_fetcher),
    ),
    _of_bases(
        "ringblk_base_changed", "gauge", "1 once the source is not what it was.", lambda b: int(b.has_changed)
    ),
    _of_bases("ringblk_base_cached_bytes", "gauge", "Of the base, on this host.", lambda b: b.cached_bytes),
    _of_bases("ringblk_base_missing_bytes", "gauge", "Of the base, not here.", lambda b: b.missing_bytes),
    _of_bases(
        "ringblk_base_fetched_bytes_total",
        "counter",
        "Read from the source since its fetcher began, for all drives of the host.",
        lambda b: b.fetched_bytes,
    ),
    _of_bases(
        "ringblk_base_failed_reads_total",
        "counter",
        "Reads of the source that failed.",
        lambda b: b.failed_count,
    ),
    _of_bases(
        "ringblk_base_waiting_requests", "gauge", "Requests that wait for it now.", lambda b: b.waiting_count
    ),
)
"""Of drives whose base is fetched."""

_OF_SOME = (*_OF_SERVERS, *_OF_BASES)
"""What is shown where a drive has it."""

FAMILIES = (
    Family("ringblk_info", "gauge", "The engine and its drive.", _info),
    _of_drive("ringblk_uptime_seconds", "gauge", "Since the start.", lambda s: s.uptime_ns / 1e9),
    _of_drive("ringblk_capacity_bytes", "gauge", "Size of the drive.", lambda s: s.capacity_bytes),
    _of_drive("ringblk_paused", "gauge", "1 while paused by the control API.", lambda s: int(s.is_paused)),
    _of_drive(
        "ringblk_oldest_request_age_seconds",
        "gauge",
        "How long the oldest request in flight has been in flight; 0 if none is.",
        lambda s: s.oldest_request_ns / 1e9,
    ),
    _of_drive("ringblk_workers", "gauge", "Worker processes now; none at rest.", lambda s: s.workers_up),
    _of_drive("ringblk_workers_limit", "gauge", "Worker processes at most.", lambda s: s.worker_limit),
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
    *_OF_SOME,
)
"""All that there is, in the order in which it is shown."""
