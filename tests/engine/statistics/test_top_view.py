"""One drive in `ringblk top`: what happened between two looks, in 80 columns too."""

import re

import msgspec
import pytest

from ringblk.engine.dispatcher.request_recorder import RequestRecorder
from ringblk.engine.statistics.statistics import StatisticsSnapshot, take_snapshot
from ringblk.engine.statistics.top_view import BARS, bars, drive_lines, is_one_drive
from ringblk.shm.layout.histogram import Histogram
from ringblk.shm.state.segment import StateSegment
from tests.rigs.recorded_requests import DRIVE, WRITE, record


def later(snapshot: StatisticsSnapshot, seconds: int, before: StatisticsSnapshot) -> StatisticsSnapshot:
    return msgspec.structs.replace(snapshot, taken_ns=before.taken_ns + seconds * 1_000_000_000)


def test_what_happened_between_two_looks(state: StateSegment, recorder: RequestRecorder) -> None:
    state.set_worker(0, 4242)
    record(recorder, 1000, service_us=50_000)  # before the first look: not to be seen
    before = take_snapshot(state)
    record(recorder, 200, service_us=100)
    lines = drive_lines(before, later(take_snapshot(state), 2, before), None)
    found = {line.split()[0]: line for line in lines}
    assert found["read"].split()[1:4] == ["100", "400", "KiB/s"]
    assert "99.8us" in found["read"]  # the middle of a bucket
    assert "50.0ms" not in "\n".join(lines)
    assert found["0"].split()[1] == "4242"
    assert "█" in found["service"]


@pytest.fixture
def busy(state: StateSegment, recorder: RequestRecorder) -> tuple[StatisticsSnapshot, StatisticsSnapshot]:
    """Every number as long as it gets, and everything there that can be."""
    state.set_engine("", "/images/" + "x" * 200, 4194304, 64, 0)
    state.set_connected(True)
    for worker_index in range(64):
        state.set_worker(worker_index, 4194304)
    record(recorder, 1, status=1)  # all have had an error
    before = take_snapshot(state)
    for operation in range(state.operation_count):
        record(recorder, 999_949, operation=operation, service_us=999_949, wait_us=88_888, throttled_us=5)
        record(recorder, 1, operation=operation, status=1)
    record(recorder, 99_999, operation=WRITE, length_bytes=1 << 20)
    return before, later(take_snapshot(state), 1, before)


NUMBER = re.compile(r"\d")


@pytest.mark.parametrize("width", [300, 120, 80, 60])
def test_no_number_is_cut(busy: tuple[StatisticsSnapshot, StatisticsSnapshot], width: int) -> None:
    """What is shown in less room is in the words of what is shown in all the room there is."""
    lines = drive_lines(*busy, width)
    words = {word for line in drive_lines(*busy, None) for word in line.split()}
    assert max(map(len, lines)) <= width
    for line in lines:
        for word in line.split():
            assert word in words or not NUMBER.search(word), line
    assert lines[0].startswith("…" if width < 300 else "/images/")
    text = "\n".join(lines)
    for needed in ("4194304", "IOPS", "p99", "dispatcher restarts 0", "connected"):
        assert needed in text


def test_a_column_that_says_something_stays_before_one_that_does_not(
    state: StateSegment, recorder: RequestRecorder
) -> None:
    before = take_snapshot(state)
    record(recorder, 999_999, wait_us=88_888, service_us=77_777, length_bytes=1 << 20)
    calm = drive_lines(before, later(take_snapshot(state), 1, before), 80)
    record(recorder, 5, status=1, throttled_us=5)
    failing = drive_lines(before, later(take_snapshot(state), 1, before), 80)
    assert "errors" not in "\n".join(calm)
    assert "errors  throttled" in "\n".join(failing)


def test_what_is_wrong_is_said(state: StateSegment) -> None:
    state.set_paused(True)
    assert "paused" in drive_lines(take_snapshot(state), take_snapshot(state), 80)[0]
    snapshot = take_snapshot(state)
    queues = [msgspec.structs.replace(snapshot.queues[0], broken="avail.idx jumped"), snapshot.queues[1]]
    broken = msgspec.structs.replace(snapshot, queues=queues)
    lines = drive_lines(broken, broken, 80)
    assert lines[0].endswith("broken")
    assert "queue 0 is broken: avail.idx jumped" in lines


def test_a_drive_is_compared_with_itself_alone(state: StateSegment) -> None:
    """Whoever owns a segment may put another of its name in its place."""
    snapshot = take_snapshot(state)
    assert is_one_drive(snapshot, snapshot)
    assert not is_one_drive(snapshot, msgspec.structs.replace(snapshot, operations=snapshot.operations[1:]))
    assert not is_one_drive(snapshot, msgspec.structs.replace(snapshot, drive=f"{DRIVE}2"))


def test_the_picture_shows_few_beside_many() -> None:
    histogram = Histogram()
    histogram.record(1 << 12, 1_000_000)
    histogram.record(1 << 20, 1)
    histogram.record(100, 1)
    histogram.record(1 << 38, 1)
    picture = bars(histogram)
    assert picture[4] == BARS[-1]
    assert picture[20] == BARS[1]
    assert picture[0] == BARS[1]  # what is shorter stands in the first place, what is longer in the last
    assert picture[-1] == BARS[1]
    assert picture.count(" ") == len(picture) - 4
    assert bars(Histogram()).strip() == ""
