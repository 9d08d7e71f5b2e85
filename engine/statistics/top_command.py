"""`ringblk top`: the engines of this machine, live in the terminal."""

import time
from collections.abc import Iterable, Mapping

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.statistics.running_engines import RunningEngines
from ringblk.engine.statistics.statistics import StatisticsSnapshot


def run_top(wanted: str | None, interval_s: float, frames: int | None) -> int:
    """Show until interrupted, or `frames` times. Raises `ProgramError`."""
    try:
        from rich.console import Console
        from rich.live import Live

        from ringblk.engine.statistics.top_view import render
    except ImportError as error:
        raise ProgramError(
            "top needs the package rich: pip install 'ringblk[tools]'", exit_status=1
        ) from error
    engines = RunningEngines(wanted)
    console = Console()
    try:
        before = _by_name(engines.snapshots())
        if engines.hidden_owners and not before:
            raise ProgramError(engines.hidden_text, exit_status=1)
        with Live(console=console, auto_refresh=False, screen=console.is_terminal and frames is None) as live:
            while frames is None or frames > 0:
                time.sleep(interval_s)
                after = _by_name(engines.snapshots())
                live.update(render(pairs_of(before, after)), refresh=True)
                before = after
                frames = frames - 1 if frames is not None else None
    except KeyboardInterrupt:
        pass
    return 0


def pairs_of(
    before: Mapping[str, StatisticsSnapshot], after: Mapping[str, StatisticsSnapshot]
) -> list[tuple[StatisticsSnapshot, StatisticsSnapshot]]:
    """Two looks at each engine that was there both times. By the same name, there may be another by now."""
    return [
        (before[name], after[name])
        for name in after
        if name in before and _operations(before[name]) == _operations(after[name])
    ]


def _operations(snapshot: StatisticsSnapshot) -> list[str]:
    return [operation.operation for operation in snapshot.operations]


def _by_name(snapshots: Iterable[StatisticsSnapshot]) -> dict[str, StatisticsSnapshot]:
    return {snapshot.name: snapshot for snapshot in snapshots}
