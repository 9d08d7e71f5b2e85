"""Many drives in `ringblk top`: rows in order, pages, and columns that fit."""

import msgspec
import pytest

from ringblk.engine.dispatcher.request_recorder import RequestRecorder
from ringblk.engine.statistics.statistics import take_snapshot
from ringblk.engine.statistics.top_page import TopFrame, TopLook, TopView, page_of, top_frame
from ringblk.engine.statistics.top_rows import DriveLook, DriveRow, row_between, rows_between
from ringblk.engine.statistics.top_table import COLUMNS, TopOrder, summary_line, top_lines
from ringblk.shm.state.segment import StateSegment
from tests.rigs.recorded_requests import WRITE, record

ROW = DriveRow(
    drive="/images/disk.img",
    state="connected",
    supervisor_pid=1,
    capacity_bytes=1 << 30,
    uptime_ns=10**9,
    depth=0,
    oldest_request_ns=0,
    iops=0.0,
    read_bytes_per_s=0.0,
    write_bytes_per_s=0.0,
    p50_ns=0,
    p99_ns=0,
    p999_ns=0,
)
ROWS = [
    msgspec.structs.replace(ROW, drive="b", iops=5.0, depth=1, state="paused"),
    msgspec.structs.replace(ROW, drive="a", iops=5.0, depth=3, state="broken"),
    msgspec.structs.replace(ROW, drive="c", iops=70.0, depth=2),
]
WIDEST = msgspec.structs.replace(
    ROW,
    drive="/images/" + "x" * 200,
    supervisor_pid=4194304,
    capacity_bytes=(1 << 63) - 512,
    uptime_ns=9999 * 86400 * 10**9,
    depth=65536,
    oldest_request_ns=999_949_000,
    iops=999_949.0,
    read_bytes_per_s=1023.0 * 1024,
    write_bytes_per_s=1023.0 * 1024**2,
    p50_ns=88_888,
    p99_ns=888_888,
    p999_ns=88_888_888,
)


def order_by(title: str) -> TopOrder:
    return TopOrder([column.column.title for column in COLUMNS].index(title))


def drives(order: TopOrder) -> str:
    return "".join(row.drive for row in order.sorted(ROWS))


def test_rows_are_in_the_order_that_was_asked_for() -> None:
    assert drives(TopOrder()) == "cab"  # the largest number of IOPS first, those that have as many by name
    assert drives(TopOrder().reversed()) == "abc"
    assert drives(order_by("drive")) == "abc"
    assert drives(order_by("drive").reversed()) == "cba"
    assert drives(order_by("depth")) == "acb"
    assert drives(order_by("state")) == "acb"  # broken, connected, paused


def test_every_column_is_reached_from_every_other() -> None:
    order = TopOrder()
    seen = set()
    for _ in COLUMNS:
        seen.add(order.column_index)
        order = order.next_to(1)
    assert order == TopOrder()
    assert len(seen) == len(COLUMNS)
    assert order.next_to(-1).next_to(1) == order


@pytest.mark.parametrize("width", range(40, 200))
def test_no_number_is_cut_at_any_width(width: int) -> None:
    words = set(" ".join(top_lines([WIDEST], TopOrder(), None)).split())
    titles, line = top_lines([WIDEST], TopOrder(), width)
    assert max(len(titles), len(line)) <= width
    assert set(line.split()[1:]) <= words
    assert line.startswith("…")
    assert len(line.split()[0]) >= 16
    assert "IOPS▼" in titles


def test_what_80_columns_have() -> None:
    titles, _ = top_lines([WIDEST], TopOrder(), 80)
    assert titles.split() == ["drive", "state", "IOPS▼", "read", "write", "depth", "p99"]


@pytest.mark.parametrize("title", [column.column.title for column in COLUMNS])
def test_the_column_that_rows_are_in_order_by_is_there_at_80(title: str) -> None:
    titles, line = top_lines([WIDEST], order_by(title), 80)
    is_number = title not in ("drive", "state")
    assert f"{title}{'▼' if is_number else '▲'}" in titles
    assert max(len(titles), len(line)) <= 80
    assert f"{title}{'▲' if is_number else '▼'}" in top_lines([WIDEST], order_by(title).reversed(), 80)[0]


def test_all_drives_together() -> None:
    assert summary_line(ROWS) == "3 drives  IOPS 80  read 0 B/s  write 0 B/s  depth 6"
    assert len(summary_line([WIDEST] * 1000)) <= 80


# Pages.


def frame(count: int) -> TopFrame:
    return TopFrame([str(number) for number in range(count)], "drives", "help", ["sum", "titles"], 1)


def test_a_page_says_how_many_rows_are_hidden() -> None:
    lines, first = page_of(frame(100), 0, 24)
    assert len(lines) == 24
    assert lines[:3] == ["sum", "titles", "0"]
    assert lines[-2:] == ["20", "drives 1-21 of 100, 79 hidden  help"]
    assert first == 0
    lines, first = page_of(frame(100), 1 << 30, 24)
    assert lines[-2:] == ["99", "drives 80-100 of 100, 79 hidden  help"]
    assert first == 79


def test_a_page_with_room_for_all_hides_none() -> None:
    lines, first = page_of(frame(21), 5, 24)
    assert lines[2:] == [*map(str, range(21)), "all 21 drives  help"]
    assert first == 0


def test_the_smallest_terminal_shows_a_row() -> None:
    assert page_of(frame(3), 1, 1)[0] == ["sum", "titles", "1", "drives 2-2 of 3, 2 hidden  help"]


@pytest.mark.parametrize(
    ("keys", "first"),
    [
        (["down"], 1),
        (["j", "j", "k"], 1),
        (["up"], 0),
        (["page down", " "], 40),
        (["page down", "page up"], 0),
        (["end", "home"], 0),
        (["G", "g"], 0),
        (["x", "\x1b"], 0),
    ],
)
def test_keys_scroll(keys: list[str], first: int) -> None:
    view = TopView()
    for key in keys:
        view = view.after(key, 20)
    assert view == TopView(first=first)


def test_another_order_begins_at_its_first_row() -> None:
    view = TopView(first=7)
    assert view.after("right", 20) == TopView(TopOrder().next_to(1))
    assert view.after("<", 20) == TopView(TopOrder().next_to(-1))
    assert view.after("r", 20) == TopView(TopOrder().reversed())


# Where rows come from.


def test_a_row_has_the_rates_between_two_looks(state: StateSegment, recorder: RequestRecorder) -> None:
    record(recorder, 1000, service_us=50_000)  # before the first look: not to be seen
    before = DriveLook.at(take_snapshot(state))
    record(recorder, 10, operation=WRITE, length_bytes=1 << 20, service_us=100)
    look = DriveLook.at(take_snapshot(state))
    after = msgspec.structs.replace(look, taken_ns=before.taken_ns + 2 * 10**9)
    row = row_between(before, after)
    assert (row.iops, row.read_bytes_per_s, row.write_bytes_per_s) == (5.0, 0.0, 5 * (1 << 20))
    assert row.p50_ns == row.p999_ns == pytest.approx(100_000, rel=0.02)


def test_a_drive_is_compared_with_itself_alone(state: StateSegment, recorder: RequestRecorder) -> None:
    """Whoever owns a segment may put another of its name in its place, also one that has done less."""
    record(recorder, 5)
    look = DriveLook.at(take_snapshot(state))
    assert len(rows_between({"a": look}, {"a": look, "b": look})) == 1
    for change in ({"drive": "other"}, {"supervisor_pid": 1}, {"request_count": 4}):
        other = msgspec.structs.replace(look, **change)
        assert rows_between({"a": look}, {"a": other}) == []


def test_one_drive_is_shown_with_all_there_is(state: StateSegment) -> None:
    snapshot = take_snapshot(state)
    look = DriveLook.at(snapshot)
    one = TopLook({"a": look}, snapshot)
    two = TopLook({"a": look, "b": look}, None)
    assert "service" in "".join(top_frame(one, one, TopOrder(), 80).lines)
    assert len(top_frame(two, two, TopOrder(), 80).lines) == 2
    assert len(top_frame(one, two, TopOrder(), 80).lines) == 1
    none = TopLook({}, None)
    assert top_frame(one, none, TopOrder(), 80).fixed == ["no engine runs here"]
