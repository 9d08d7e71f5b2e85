"""What `ringblk top` shows of one drive, made from two snapshots of it: no terminal is needed to make it."""

from collections.abc import Sequence
from itertools import pairwise

from ringblk.engine.base.number_text import count_text, duration_text, size_text, time_text
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.text_table import GAP, Column, cell_count, cut_text, table_lines
from ringblk.engine.statistics.statistics import OperationSnapshot, StatisticsSnapshot
from ringblk.engine.statistics.top_rows import merged
from ringblk.shm.layout.histogram import Histogram

BARS = " ▁▂▃▄▅▆▇█"
FIRST_EXPONENT = 10
"""The picture begins at 2^10 ns, a microsecond."""
STEPS = 22
"""Powers of two in the picture: to four seconds, and all that is longer in the last one."""
STEP_COLUMNS = 2
LEFT_OUT_FIRST = 100
"""The rank of columns in which there is nothing to see."""


def is_one_drive(before: StatisticsSnapshot, after: StatisticsSnapshot) -> bool:
    """Whether both are of one drive: whoever owns a segment may put another of its name in its place."""
    operations = [[each.operation for each in snapshot.operations] for snapshot in (before, after)]
    return (before.name, before.drive) == (after.name, after.drive) and operations[0] == operations[1]


def drive_lines(before: StatisticsSnapshot, after: StatisticsSnapshot, width: int | None) -> list[str]:
    """All that there is to say of a drive, in lines that are not wider unless their numbers are."""
    interval_s = max(after.taken_ns - before.taken_ns, 1) / 1e9
    recent = [_difference(*pair) for pair in zip(before.operations, after.operations, strict=True)]
    return [
        *_headline(before, after, recent, interval_s, width),
        *_operations(after, recent, interval_s, width),
        *_picture(recent),
        *_workers(before, after, width),
    ]


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


def _headline(
    before: StatisticsSnapshot,
    after: StatisticsSnapshot,
    recent: Sequence[OperationSnapshot],
    interval_s: float,
    width: int | None,
) -> list[str]:
    facts = [
        size_text(after.capacity_bytes),
        f"pid {after.supervisor_pid}",
        f"up {duration_text(after.uptime_ns)}",
        after.state,
    ]
    drive = printable(after.drive)
    if width is not None:
        drive = cut_text(drive, max(16, width - sum(cell_count(GAP + fact) for fact in facts)), "head")
    calls = sum(queue.call_count for queue in after.queues) - sum(queue.call_count for queue in before.queues)
    kicks = sum(queue.kick_count for queue in after.queues) - sum(queue.kick_count for queue in before.queues)
    rates = [
        f"IOPS {count_text(sum(item.request_count for item in recent) / interval_s)}",
        f"depth {after.depth}",
        f"oldest {time_text(after.oldest_request_ns)}",
        f"kicks {count_text(kicks / interval_s)}/s",
        f"calls {count_text(calls / interval_s)}/s",
        f"workers {after.workers_up} of {after.worker_limit}",
        f"dispatcher restarts {after.dispatcher_restart_count}",
    ]
    broken = [
        f"queue {queue.queue_index} is broken: {queue.broken}" for queue in after.queues if queue.broken
    ]
    return [*_wrapped([drive, *facts], width), *_wrapped(rates, width), *broken]


def _wrapped(items: Sequence[str], width: int | None) -> list[str]:
    """Items side by side, on as many lines as they need."""
    lines: list[str] = []
    for item in items:
        if lines and (width is None or cell_count(lines[-1] + GAP + item) <= width):
            lines[-1] += GAP + item
        else:
            lines.append(item)
    return lines


def _operations(
    after: StatisticsSnapshot, recent: Sequence[OperationSnapshot], interval_s: float, width: int | None
) -> list[str]:
    pairs = [
        (total, rates)
        for total, rates in zip(after.operations, recent, strict=True)
        if total.request_count or total.operation in ("read", "write")
    ]
    has_errors = any(total.error_count for total, _ in pairs)
    has_throttled = any(rates.throttled_count for _, rates in pairs)
    columns = (
        Column(""),
        Column("IOPS", True, least_cells=5),
        Column("bytes/s", True, rank=3, least_cells=10),
        Column("errors", True, rank=1 if has_errors else LEFT_OUT_FIRST),
        Column("throttled", True, rank=2 if has_throttled else LEFT_OUT_FIRST),
        Column("wait\np50", True, rank=6, least_cells=6),
        Column("wait\np99", True, rank=5, least_cells=6),
        Column("wait\np99.9", True, rank=8, least_cells=6),
        Column("service\np50", True, rank=4),
        Column("service\np99", True),
        Column("service\np99.9", True, rank=7),
    )
    rows = [
        (
            printable(total.operation),
            count_text(rates.request_count / interval_s),
            f"{size_text(rates.byte_count / interval_s)}/s",
            count_text(total.error_count),
            count_text(rates.throttled_count / interval_s) + "/s",
            *(time_text(rates.queue_wait.percentile(percent)) for percent in (50, 99, 99.9)),
            *(time_text(rates.service.percentile(percent)) for percent in (50, 99, 99.9)),
        )
        for total, rates in pairs
    ]
    return table_lines(columns, rows, width)


def _picture(recent: Sequence[OperationSnapshot]) -> list[str]:
    wait = merged(operation.queue_wait for operation in recent)
    service = merged(operation.service for operation in recent)
    return [f"wait     {bars(wait)}".rstrip(), f"service  {bars(service)}".rstrip(), " " * 9 + _axis()]


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


def _workers(before: StatisticsSnapshot, after: StatisticsSnapshot, width: int | None) -> list[str]:
    columns = (
        Column("worker", True),
        Column("pid", True),
        Column("IOPS", True, least_cells=5),
        Column("busy", True),
        Column("", rank=1),
        Column("held", True),
        Column("restarts", True),
    )
    interval_ns = max(after.taken_ns - before.taken_ns, 1)
    earlier = {worker.worker_index: worker for worker in before.workers}
    rows = []
    for worker in after.workers:
        was = earlier.get(worker.worker_index, worker)
        busy = min((worker.busy_ns - was.busy_ns) / interval_ns, 1.0)
        rows.append(
            (
                str(worker.worker_index),
                str(worker.pid or "-"),
                count_text((worker.request_count - was.request_count) * 1e9 / interval_ns),
                f"{busy:.0%}",
                "█" * round(busy * 10) + "░" * (10 - round(busy * 10)),
                str(worker.held_count),
                str(worker.restart_count),
            )
        )
    return table_lines(columns, rows, width) if rows else []
