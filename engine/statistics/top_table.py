"""The table of `ringblk top`: drives in the order that was asked for, as many as there is room for."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from ringblk.engine.base.number_text import count_text, duration_text, size_text, time_text
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.text_table import Column, table_lines
from ringblk.engine.statistics.top_rows import DriveRow


class TopColumn(NamedTuple):
    """A column of the table, by which it may be in order."""

    column: Column
    text: Callable[[DriveRow], str]
    value: Callable[[DriveRow], str | float]
    """What rows are put in order by: texts from the beginning of the alphabet, numbers from the largest."""


def _rate_text(bytes_per_s: float) -> str:
    return f"{size_text(bytes_per_s)}/s"


def _number(
    title: str,
    rank: int,
    cells: int,
    text: Callable[[float], str],
    value: Callable[[DriveRow], float],
) -> TopColumn:
    column = Column(title, is_number=True, rank=rank, least_cells=cells)
    return TopColumn(column, lambda row: text(value(row)), value)


COLUMNS = (
    TopColumn(
        Column("drive", cut="head", least_cells=16), lambda row: printable(row.drive), lambda row: row.drive
    ),
    TopColumn(Column("state", rank=5), lambda row: row.state, lambda row: row.state),
    _number("IOPS", 1, 5, count_text, lambda row: row.iops),
    _number("read", 3, 10, _rate_text, lambda row: row.read_bytes_per_s),
    _number("write", 4, 10, _rate_text, lambda row: row.write_bytes_per_s),
    _number("depth", 6, 5, count_text, lambda row: row.depth),
    _number("p50", 7, 6, time_text, lambda row: row.p50_ns),
    _number("p99", 2, 6, time_text, lambda row: row.p99_ns),
    _number("p99.9", 10, 6, time_text, lambda row: row.p999_ns),
    _number("oldest", 8, 6, time_text, lambda row: row.oldest_request_ns),
    _number("size", 11, 8, size_text, lambda row: row.capacity_bytes),
    _number("up", 12, 6, lambda value: duration_text(int(value)), lambda row: row.uptime_ns),
    _number("pid", 9, 7, lambda value: f"{value:.0f}", lambda row: row.supervisor_pid),
)
IOPS = next(index for index, column in enumerate(COLUMNS) if column.column.title == "IOPS")


class TopOrder(msgspec.Struct, frozen=True):
    """What the rows are in order by."""

    column_index: int = IOPS
    is_reversed: bool = False

    def next_to(self, step: int) -> "TopOrder":
        """By the column so many further on."""
        return TopOrder((self.column_index + step) % len(COLUMNS))

    def reversed(self) -> "TopOrder":
        """The other way round."""
        return TopOrder(self.column_index, not self.is_reversed)

    def sorted(self, rows: Sequence[DriveRow]) -> list[DriveRow]:
        """The rows in this order; those that are equal in it by drive."""
        column = COLUMNS[self.column_index]
        found = sorted(rows, key=lambda row: (row.drive, row.supervisor_pid))
        found.sort(key=column.value, reverse=column.column.is_number != self.is_reversed)
        return found


def top_lines(rows: Sequence[DriveRow], order: TopOrder, width: int | None) -> list[str]:
    """The titles and all rows in order. The column that they are in order by is always there, and marked."""
    columns = []
    for index, column in enumerate(COLUMNS):
        each = column.column
        if index == order.column_index:
            mark = "▲" if each.is_number == order.is_reversed else "▼"
            each = each._replace(title=each.title + mark, rank=0)
        columns.append(each)
    texts = [[column.text(row) for column in COLUMNS] for row in order.sorted(rows)]
    return table_lines(columns, texts, width)


def summary_line(rows: Sequence[DriveRow]) -> str:
    """All drives together."""
    return "  ".join(
        (
            f"{len(rows)} drives",
            f"IOPS {count_text(sum(row.iops for row in rows))}",
            f"read {_rate_text(sum(row.read_bytes_per_s for row in rows))}",
            f"write {_rate_text(sum(row.write_bytes_per_s for row in rows))}",
            f"depth {count_text(sum(row.depth for row in rows))}",
        )
    )
