"""`ringblk top`: the engines of this machine, live in the terminal."""

import sys
import time

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.text_table import terminal_width
from ringblk.engine.statistics.live_terminal import LiveTerminal, TerminalEnded
from ringblk.engine.statistics.running_engines import RunningEngines
from ringblk.engine.statistics.statistics import StatisticsSnapshot
from ringblk.engine.statistics.top_page import TopLook, TopView, page_of, room_of, top_frame
from ringblk.engine.statistics.top_rows import DriveLook


def run_top(wanted: str | None, interval_s: float, frames: int | None) -> int:
    """Show until told to end, or `frames` times; returns the exit status. Raises `ProgramError`."""
    engines = RunningEngines(wanted)
    before = look_at(engines)
    if engines.hidden_owners and not before.drives:
        raise ProgramError(engines.hidden_text, exit_status=ExitStatus.FAILED)
    try:
        if frames is None and sys.stdout.isatty():
            _show_live(engines, before, interval_s)
        else:
            _print(engines, before, interval_s, frames)
    except KeyboardInterrupt:
        pass
    except TerminalEnded as ended:
        return ended.exit_status
    return ExitStatus.DONE


def look_at(engines: RunningEngines) -> TopLook:
    """All drives now. Raises `ProgramError` when the wanted one is not there."""
    drives: dict[str, DriveLook] = {}
    only: StatisticsSnapshot | None = None
    for snapshot in engines.snapshots():
        drives[snapshot.name] = DriveLook.at(snapshot)
        only = snapshot if len(drives) == 1 else None
    return TopLook(drives, only)


def _print(engines: RunningEngines, before: TopLook, interval_s: float, frames: int | None) -> None:
    """Frame after frame, each with all that there is."""
    order = TopView().order
    while frames is None or frames > 0:
        time.sleep(interval_s)
        after = look_at(engines)
        frame = top_frame(before, after, order, terminal_width())
        print("\n".join([*frame.fixed, *frame.lines]), flush=True)
        before = after
        frames = frames - 1 if frames is not None else None


def _show_live(engines: RunningEngines, before: TopLook, interval_s: float) -> None:
    """Until `q`. Raises `TerminalEnded`."""
    view = TopView()
    after = before
    with LiveTerminal() as terminal:
        due_s = time.monotonic() + interval_s
        while True:
            width, height = terminal.size()
            frame = top_frame(before, after, view.order, width)
            lines, first = page_of(frame, view.first, height)
            terminal.draw(lines, frame.title_index)
            view = TopView(view.order, first)
            keys = terminal.keys(max(0.0, due_s - time.monotonic()))
            if keys is None:
                before, after = after, look_at(engines)
                due_s = time.monotonic() + interval_s
            for key in keys or ():
                if key in ("q", "Q"):
                    return
                view = view.after(key, room_of(frame, height))
