"""What `ringblk top` shows, made from two snapshots of an engine: no terminal is needed to make it."""

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ringblk.engine.base.number_text import count_text, duration_text, size_text, time_text
from ringblk.engine.base.printable_text import printable
from ringblk.engine.statistics.statistics import OperationSnapshot, StatisticsSnapshot
from ringblk.shm.layout.histogram import Histogram

BARS = " ▁▂▃▄▅▆▇█"
FIRST_EXPONENT = 10
"""The picture begins at 2^10 ns, a microsecond."""
STEPS = 22
"""Powers of two in the picture: to four seconds, and all that is longer in the last one."""
STEP_COLUMNS = 2

Pair = tuple[StatisticsSnapshot, StatisticsSnapshot]


def render(pairs: Sequence[Pair]) -> RenderableType:
    """Several engines a row each; one engine with all that there is to say."""
    if not pairs:
        return Text("no engine runs here")
    if len(pairs) > 1:
        return render_many(pairs)
    before, after = pairs[0]
    return Group(
        _headline(before, after), _operations(before, after), _picture(before, after), _workers(*pairs[0])
    )


def render_many(pairs: Sequence[Pair]) -> RenderableType:
    """A table of engines."""
    table = _table(
        "pid", "drive", "size", "read", "write", "IOPS", "depth", "p50", "p99", "p99.9", "oldest", "up"
    )
    for before, after in pairs:
        rates = _Rates(before, after)
        service = _merged([operation.service for operation in rates.operations])
        table.add_row(
            str(after.supervisor_pid),
            Text(printable(after.drive)),
            size_text(after.capacity_bytes),
            f"{size_text(rates.bytes_per_s('read'))}/s",
            f"{size_text(rates.bytes_per_s('write'))}/s",
            count_text(rates.iops()),
            str(after.depth),
            *(time_text(service.percentile(percent)) for percent in (50, 99, 99.9)),
            time_text(after.oldest_request_ns),
            duration_text(after.uptime_ns) + (" paused" if after.is_paused else ""),
        )
    return table


class _Rates:
    """What happened between two snapshots."""

    def __init__(self, before: StatisticsSnapshot, after: StatisticsSnapshot) -> None:
        self.interval_s = max(after.taken_ns - before.taken_ns, 1) / 1e9
        self.operations = [
            _difference(*pair) for pair in zip(before.operations, after.operations, strict=True)
        ]

    def bytes_per_s(self, name: str) -> float:
        return sum(item.byte_count for item in self.operations if item.operation == name) / self.interval_s

    def iops(self) -> float:
        return sum(item.request_count for item in self.operations) / self.interval_s


def _difference(before: OperationSnapshot, after: OperationSnapshot) -> OperationSnapshot:
    return OperationSnapshot(
        after.operation,
        after.request_count - before.request_count,
        after.byte_count - before.byte_count,
        after.error_count - before.error_count,
        after.throttled_count - before.throttled_count,
        after.throttled_ns - before.throttled_ns,
        after.queue_wait.since(before.queue_wait),
        after.service.since(before.service),
    )


def _merged(histograms: Sequence[Histogram]) -> Histogram:
    merged = Histogram()
    for histogram in histograms:
        merged.merge(histogram)
    return merged


def _headline(before: StatisticsSnapshot, after: StatisticsSnapshot) -> RenderableType:
    rates = _Rates(before, after)
    first = Text.assemble(
        (printable(after.drive), "bold"),
        f"  {size_text(after.capacity_bytes)}  pid {after.supervisor_pid}",
        f"  up {duration_text(after.uptime_ns)}",
        ("  paused" if after.is_paused else "", "bold yellow"),
    )
    calls = sum(queue.call_count for queue in after.queues) - sum(queue.call_count for queue in before.queues)
    kicks = sum(queue.kick_count for queue in after.queues) - sum(queue.kick_count for queue in before.queues)
    second = Text(
        f"IOPS {count_text(rates.iops())}  depth {after.depth}  oldest {time_text(after.oldest_request_ns)}"
        f"  kicks {count_text(kicks / rates.interval_s)}/s  calls {count_text(calls / rates.interval_s)}/s"
        f"  dispatcher restarts {after.dispatcher_restart_count}"
    )
    broken = [
        Text(f"queue {queue.queue_index} is broken: {queue.broken}", "bold red")
        for queue in after.queues
        if queue.broken
    ]
    return Group(first, second, *broken)


def _operations(before: StatisticsSnapshot, after: StatisticsSnapshot) -> Table:
    table = _table(
        "", "IOPS", "bytes/s", "errors", "throttled",
        "wait p50", "p99", "p99.9", "service p50", "p99", "p99.9",
    )  # fmt: skip
    rates = _Rates(before, after)
    for total, recent in zip(after.operations, rates.operations, strict=True):
        if not total.request_count and total.operation not in ("read", "write"):
            continue
        table.add_row(
            Text(printable(total.operation)),
            count_text(recent.request_count / rates.interval_s),
            f"{size_text(recent.byte_count / rates.interval_s)}/s",
            count_text(total.error_count),
            count_text(recent.throttled_count / rates.interval_s) + "/s",
            *(time_text(recent.queue_wait.percentile(percent)) for percent in (50, 99, 99.9)),
            *(time_text(recent.service.percentile(percent)) for percent in (50, 99, 99.9)),
        )
    return table


def _picture(before: StatisticsSnapshot, after: StatisticsSnapshot) -> RenderableType:
    rates = _Rates(before, after)
    table = Table.grid(padding=(0, 1))
    for name in ("queue_wait", "service"):
        histogram = _merged([getattr(operation, name) for operation in rates.operations])
        table.add_row(name.removeprefix("queue_"), Text(bars(histogram), "cyan"))
    table.add_row("", _axis())
    return table


def bars(histogram: Histogram) -> str:
    """A histogram as block characters, half a power of two each; the fullest one is a whole block."""
    bounds_ns = [_bound_ns(column) for column in range(1, STEPS * STEP_COLUMNS)]
    below = [0, *histogram.counts_below(bounds_ns), histogram.count]
    counts = [after - before for before, after in pairwise(below)]
    most = max(counts)
    if most == 0:
        return " " * len(counts)
    top = len(BARS) - 1
    return "".join(BARS[-(-count * top // most)] for count in counts)  # rounded up: what is there shows


def _bound_ns(column: int) -> int:
    step_ns = 1 << (FIRST_EXPONENT + column // STEP_COLUMNS)
    return step_ns + step_ns * (column % STEP_COLUMNS) // STEP_COLUMNS


def _axis() -> str:
    axis = ""
    for exponent, label in (
        (10, "1us"),
        (13, "8us"),
        (17, "128us"),
        (20, "1ms"),
        (23, "8ms"),
        (27, "128ms"),
        (30, "1s"),
    ):
        axis = axis.ljust((exponent - FIRST_EXPONENT) * STEP_COLUMNS) + label
    return axis


def _workers(before: StatisticsSnapshot, after: StatisticsSnapshot) -> Table:
    table = _table("worker", "pid", "IOPS", "busy", "", "held", "restarts")
    interval_ns = max(after.taken_ns - before.taken_ns, 1)
    earlier = {worker.worker_index: worker for worker in before.workers}
    for worker in after.workers:
        was = earlier.get(worker.worker_index, worker)
        busy = min((worker.busy_ns - was.busy_ns) / interval_ns, 1.0)
        table.add_row(
            str(worker.worker_index),
            str(worker.pid),
            count_text((worker.request_count - was.request_count) * 1e9 / interval_ns),
            f"{busy:.0%}",
            Text("█" * round(busy * 10) + "░" * (10 - round(busy * 10)), "green"),
            str(worker.held_count),
            str(worker.restart_count),
        )
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in titles:
        table.add_column(title, justify="left" if title in ("", "drive") else "right", no_wrap=True)
    return table
