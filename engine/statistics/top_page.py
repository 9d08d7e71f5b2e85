"""A page of `ringblk top`: as many rows as there is room for, and a line that says what is not shown."""

from collections.abc import Sequence

import msgspec

from ringblk.engine.statistics.statistics import StatisticsSnapshot
from ringblk.engine.statistics.top_rows import DriveLook, rows_between
from ringblk.engine.statistics.top_table import TopOrder, summary_line, top_lines
from ringblk.engine.statistics.top_view import drive_lines, is_one_drive

HELP = "q quit  ↑↓ scroll"
TABLE_HELP = "q quit  ↑↓ scroll  ←→ sort  r reverse"


class TopLook(msgspec.Struct, frozen=True):
    """All drives at one moment."""

    drives: dict[str, DriveLook]
    """By their segments' names."""
    only: StatisticsSnapshot | None
    """All that there is to say, where there is one drive."""


class TopFrame(msgspec.Struct, frozen=True):
    """What there is to show, on a page of any height."""

    lines: list[str]
    """Scrolled."""
    noun: str
    help: str
    fixed: list[str] = []
    """Always there, above the others."""
    title_index: int | None = None
    """Which of those has a table's titles."""


class TopView(msgspec.Struct, frozen=True):
    """What was asked for with keys."""

    order: TopOrder = TopOrder()
    first: int = 0
    """Which of the scrolled lines is the first on the page."""

    def after(self, key: str, page_lines: int) -> "TopView":
        """The view when a key was pressed; `page_lines` are scrolled by a page."""
        if key in ("left", "<"):
            return TopView(self.order.next_to(-1))
        if key in ("right", ">"):
            return TopView(self.order.next_to(1))
        if key == "r":
            return TopView(self.order.reversed())
        first = {
            "up": self.first - 1,
            "k": self.first - 1,
            "down": self.first + 1,
            "j": self.first + 1,
            "page up": self.first - page_lines,
            "page down": self.first + page_lines,
            " ": self.first + page_lines,
            "home": 0,
            "g": 0,
            "end": 1 << 30,
            "G": 1 << 30,
        }.get(key, self.first)
        return TopView(self.order, max(0, first))


def top_frame(before: TopLook, after: TopLook, order: TopOrder, width: int | None) -> TopFrame:
    """One drive with all that there is to say, several in a row each."""
    if before.only is not None and after.only is not None and is_one_drive(before.only, after.only):
        lines = drive_lines(before.only, after.only, width)
        return TopFrame(lines, "lines", HELP)
    rows = rows_between(before.drives, after.drives)
    if not rows:
        return TopFrame([], "drives", TABLE_HELP, ["no engine runs here"])
    titles, *lines = top_lines(rows, order, width)
    return TopFrame(lines, "drives", TABLE_HELP, [summary_line(rows), titles], title_index=1)


def page_of(frame: TopFrame, first: int, height: int) -> tuple[list[str], int]:
    """The lines of a page of that height, and which of the scrolled ones is the first on it."""
    room = room_of(frame, height)
    first = max(0, min(first, len(frame.lines) - room))
    shown = frame.lines[first : first + room]
    return [*frame.fixed, *shown, _foot(frame, first, shown)], first


def room_of(frame: TopFrame, height: int) -> int:
    """How many of the scrolled lines such a page shows."""
    return max(1, height - len(frame.fixed) - 1)


def _foot(frame: TopFrame, first: int, shown: Sequence[str]) -> str:
    count = len(frame.lines)
    hidden = count - len(shown)
    if not hidden:
        return f"all {count} {frame.noun}  {frame.help}"
    return f"{frame.noun} {first + 1}-{first + len(shown)} of {count}, {hidden} hidden  {frame.help}"
