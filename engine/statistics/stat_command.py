"""`ringblk stat`: what the engines of this machine have done, printed once."""

import sys
from typing import Literal

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.number_text import count_text, duration_text, size_text, time_text
from ringblk.engine.base.printable_text import printable
from ringblk.engine.statistics.metrics import Exposition
from ringblk.engine.statistics.running_engines import RunningEngines
from ringblk.engine.statistics.statistics import StatisticsSnapshot, encode_json, summarize

StatFormat = Literal["human", "json", "prometheus"]


def run_stat(wanted: str | None, stat_format: StatFormat) -> int:
    """Print; a JSON array of snapshots, or metrics, if asked for.

    Raises `ProgramError` when `wanted` is not found.
    """
    engines = RunningEngines(wanted)
    if stat_format == "prometheus":
        count = _print_metrics(engines)
    elif stat_format == "json":
        texts = [encode_json(snapshot).decode() for snapshot in engines.snapshots()]
        print(f"[{','.join(texts)}]")
        count = len(texts)
    else:
        count = _print_text(engines)
    if engines.hidden_owners and wanted is None:
        print(f"ringblk stat: {engines.hidden_text}", file=sys.stderr)
    return ExitStatus.FAILED if engines.hidden_owners and not count else ExitStatus.DONE


def _print_text(engines: RunningEngines) -> int:
    count = 0
    for count, snapshot in enumerate(engines.snapshots(), start=1):
        print(("\n" if count > 1 else "") + describe(snapshot))
    if not count and not engines.hidden_owners:
        print("no engine runs here")
    return count


def _print_metrics(engines: RunningEngines) -> int:
    """As `/metrics` of each engine has them."""
    exposition = Exposition()
    seen: set[tuple[str, str]] = set()
    for snapshot in engines.snapshots():
        identity = (snapshot.drive, snapshot.engine)
        # The segments of a user may say what they like: a reader refuses all for a series that stands twice.
        if identity not in seen:
            seen.add(identity)
            exposition.add(snapshot)
    sys.stdout.flush()
    sys.stdout.buffer.write(exposition.encoded())
    return len(seen)


def describe(snapshot: StatisticsSnapshot) -> str:
    """One engine in plain text."""
    lines = [_headline(snapshot), "", _OPERATION_TITLES]
    for operation in snapshot.operations:
        if operation.request_count:
            wait, service = summarize(operation.queue_wait), summarize(operation.service)
            lines.append(
                f"{printable(operation.operation):<13}{count_text(operation.request_count):>9}"
                f"{size_text(operation.byte_count):>12}{count_text(operation.error_count):>7}"
                f"{count_text(operation.throttled_count):>10}{time_text(operation.throttled_ns):>9}"
                f"{time_text(wait.p50_ns):>10}{time_text(wait.p99_ns):>8}"
                f"{time_text(service.p50_ns):>12}{time_text(service.p99_ns):>8}{time_text(service.p999_ns):>8}"
            )
    lines += ["", f"{'queue':<13}{'depth':>9}{'popped':>12}{'kicks':>9}{'calls':>9}{'suppressed':>12}"]
    for queue in snapshot.queues:
        lines.append(
            f"{queue.queue_index:<13}{queue.depth:>9}{count_text(queue.popped_count):>12}"
            f"{count_text(queue.kick_count):>9}{count_text(queue.call_count):>9}"
            f"{count_text(queue.suppressed_call_count):>12}"
            + (f"  broken: {queue.broken}" if queue.broken else "")
        )
    if snapshot.workers:
        lines += ["", f"{'worker':<13}{'pid':>9}{'requests':>12}{'busy':>9}{'held':>9}{'restarts':>12}"]
    for worker in snapshot.workers:
        lines.append(
            f"{worker.worker_index:<13}{worker.pid or '-':>9}{count_text(worker.request_count):>12}"
            f"{time_text(worker.busy_ns):>9}{worker.held_count:>9}{worker.restart_count:>12}"
        )
    return "\n".join(lines)


_OPERATION_TITLES = (
    f"{'operation':<13}{'requests':>9}{'bytes':>12}{'errors':>7}{'throttled':>10}{'for':>9}"
    f"{'wait p50':>10}{'p99':>8}{'service p50':>12}{'p99':>8}{'p99.9':>8}"
)


def _headline(snapshot: StatisticsSnapshot) -> str:
    parts = [
        f"{printable(snapshot.name)}  {printable(snapshot.drive)}",
        *([printable(snapshot.storage)] if snapshot.storage != snapshot.drive else []),
        size_text(snapshot.capacity_bytes),
        f"up {duration_text(snapshot.uptime_ns)}",
        f"in flight {snapshot.depth}, oldest {time_text(snapshot.oldest_request_ns)}",
        f"dispatcher {snapshot.dispatcher_pid}, {snapshot.dispatcher_restart_count} restarts",
        f"workers {snapshot.workers_up} of {snapshot.worker_limit}",
    ]
    if snapshot.is_paused:
        parts.append("paused")
    return "  ".join(parts)
