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
    is_number: bool = False
    """It stands at the right."""
    cut: Cut = ""
    """Which end goes where there is no room for all: that of a path its head, that of a name its tail."""


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
    """The titles and the rows as lines. Texts that may be cut are, where a line would be wider than that."""
    lines = [[column.title for column in columns], *rows]
    widths = [max(cell_count(line[index]) for line in lines) for index in range(len(columns))]
    if width is not None:
        _narrow(columns, widths, width)
    return [
        GAP.join(
            _cell(text, column, cells) for text, column, cells in zip(line, columns, widths, strict=True)
        ).rstrip()
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


def _narrow(columns: Sequence[Column], widths: list[int], width: int) -> None:
    """Take from the widest of those that may be cut until the line fits, or all are at their least."""
    flexible = [index for index, column in enumerate(columns) if column.cut]
    least = {index: max(LEAST_CELLS, cell_count(columns[index].title)) for index in flexible}
    excess = sum(widths) + len(GAP) * (len(columns) - 1) - width
    while excess > 0:
        wide = [index for index in flexible if widths[index] > least[index]]
        if not wide:
            return
        widths[max(wide, key=lambda index: widths[index])] -= 1
        excess -= 1


def _cell(text: str, column: Column, cells: int) -> str:
    if column.cut:
        text = cut_text(text, cells, column.cut)
    padding = " " * (cells - cell_count(text))
    return padding + text if column.is_number else text + padding
