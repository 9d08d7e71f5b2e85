"""Tables: numbers whole at any width, texts cut at the end that tells least."""

import pytest

from ringblk.engine.base.text_table import Column, cell_count, cut_text, table_lines

COLUMNS = (Column("image", cut="head"), Column("name", cut="tail"), Column("state"), Column("size", True))
ROWS = [("/a/long/path/to/disk.img", "a-long-name-1", "paused", "1.00 GiB"), ("x", "y", "-", "0 B")]


def test_where_there_is_room_nothing_is_cut() -> None:
    expected = [
        "image                     name           state       size",
        "/a/long/path/to/disk.img  a-long-name-1  paused  1.00 GiB",
        "x                         y              -            0 B",
    ]
    assert table_lines(COLUMNS, ROWS) == table_lines(COLUMNS, ROWS, 57) == expected


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (47, "…h/to/disk.img  a-long-name-1  paused  1.00 GiB"),
        (40, "…/disk.img  a-long-na…  paused  1.00 GiB"),
        (1, "…isk.img  a-long-…  paused  1.00 GiB"),
    ],
)
def test_the_widest_text_is_cut_first(width: int, expected: str) -> None:
    assert table_lines(COLUMNS, ROWS, width)[1] == expected


@pytest.mark.parametrize("width", range(1, 80))
def test_no_line_is_wider_than_it_must_be_and_no_number_is_cut(width: int) -> None:
    lines = table_lines(COLUMNS, ROWS, width)
    assert max(map(len, lines)) <= max(width, 8 + 2 + 8 + 2 + 6 + 2 + 8)
    for line, row in zip(lines[1:], ROWS, strict=True):
        assert line.endswith(f"  {row[3]}")
        assert f"  {row[2]}  " in line


@pytest.mark.parametrize(
    ("text", "cells", "cut", "expected"),
    [
        ("abcdef", 6, "tail", "abcdef"),
        ("abcdef", 5, "tail", "abcd…"),
        ("abcdef", 5, "head", "…cdef"),
        ("日本語", 6, "tail", "日本語"),
        ("日本語", 5, "tail", "日本…"),
        ("日本語", 4, "head", "…語"),
        ("e\u0301e\u0301e\u0301", 3, "tail", "e\u0301e\u0301e\u0301"),
    ],
)
def test_texts_are_cut_by_cells(text: str, cells: int, cut: str, expected: str) -> None:
    assert cut_text(text, cells, cut) == expected  # type: ignore[arg-type]
    assert cell_count(expected) <= cells


def test_wide_characters_keep_columns_in_line() -> None:
    lines = table_lines(COLUMNS, [("日本", "a", "b", "1"), ("x", "a", "b", "1")])
    assert {cell_count(line) for line in lines} == {cell_count(lines[0])}
