"""Tables for a terminal: as wide as it is, and no number cut."""

import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

Cut = Literal["", "head", "tail"]
GAP = "  "
LEAST_CELLS = 8
"""What is left of a text at the least, however narrow the terminal is."""
_ELLIPSIS = "…"


class Column(NamedTuple):
    """How the texts below a title stand."""

    title: str
    """May be several lines."""
    is_number: bool = False
    """It stands at the right."""
    cut: Cut = ""
    """Which end goes where there is no room for all: that of a path its head, that of a name its tail."""
    rank: int = 0
    """Where there is no room for all, those of the highest rank are left out; one of rank 0 never is."""
    least_cells: int = 0
    """How wide it is at the least, so that it does not dance as its values change."""


def terminal_width() -> int | None:
    """The cells of a line of standard output; None: it is no terminal, and a line may be of any length.

    `COLUMNS` says so in its place.
    """
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError, AttributeError):  # no terminal; closed; none
        return None


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None
) -> list[str]:
    """The titles and the rows as lines.

    Where a line would be wider than that, columns are left out and then texts cut, as far as they may be.
    """
    title_count = 1 + max(column.title.count("\n") for column in columns)
    titles = [[*[""] * title_count, *column.title.split("\n")][-title_count:] for column in columns]
    lines = [*zip(*titles, strict=True), *rows]
    widths = [
        max(column.least_cells, *(cell_count(line[index]) for line in lines))
        for index, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    if width is not None:
        shown = _fitting(columns, widths, width)
        _narrow(columns, widths, shown, width)
    return [
        GAP.join(_cell(line[index], columns[index], widths[index]) for index in shown).rstrip()
        for line in lines
    ]


def cell_count(text: str) -> int:
    """How many cells of a terminal a printable text takes (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(character) for character in text)


def cut_text(text: str, cells: int, cut: Cut) -> str:
    """As much of the text as there is room for, with an ellipsis for the rest."""
    if cell_count(text) <= cells:
        return text
    kept: list[str] = []
    room = cells - 1
    for character in reversed(text) if cut == "head" else text:
        room -= _cells_of(character)
        if room < 0:
            break
        kept.append(character)
    if cut == "head":
        return _ELLIPSIS + "".join(reversed(kept))
    return "".join(kept) + _ELLIPSIS


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fitting(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Which columns there is room for, texts cut as far as they may be."""
    least = [
        min(cells, _least(column)) if column.cut else cells
        for column, cells in zip(columns, widths, strict=True)
    ]
    shown = list(range(len(columns)))
    while sum(least[index] + len(GAP) for index in shown) - len(GAP) > width:
        highest = max(shown, key=lambda index: columns[index].rank)
        if columns[highest].rank == 0:
            break
        shown.remove(highest)
    return shown


def _narrow(columns: Sequence[Column], widths: list[int], shown: Sequence[int], width: int) -> None:
    """Take from the widest of those that may be cut until the line fits, or all are at their least."""
    flexible = [index for index in shown if columns[index].cut]
    least = {index: _least(columns[index]) for index in flexible}
    excess = sum(widths[index] + len(GAP) for index in shown) - len(GAP) - width
    while excess > 0:
        wide = [index for index in flexible if widths[index] > least[index]]
        if not wide:
            return
        widths[max(wide, key=lambda index: widths[index])] -= 1
        excess -= 1


def _least(column: Column) -> int:
    """How far a text of a column may be cut."""
    return max(LEAST_CELLS, column.least_cells, *(map(cell_count, column.title.split("\n"))))


def _cell(text: str, column: Column, cells: int) -> str:
    if column.cut:
        text = cut_text(text, cells, column.cut)
    padding = " " * (cells - cell_count(text))
    return padding + text if column.is_number else text + padding
