"""What the dispatcher counts is what a snapshot says; what is shown is what a snapshot says."""

import contextlib
import io
import os
import uuid
from collections.abc import Iterator

import msgspec
import pytest
from rich.console import Console

from ringblk.engine.base.number_text import count_text, duration_text, size_text, time_text
from ringblk.engine.dispatcher.request_recorder import RequestRecorder
from ringblk.engine.drives.segments import DriveSegment
from ringblk.engine.statistics.stat_command import describe
from ringblk.engine.statistics.statistics import (
    OperationSnapshot,
    StatisticsSnapshot,
    encode_json,
    take_snapshot,
)
from ringblk.engine.statistics.top_command import pairs_of
from ringblk.engine.statistics.top_view import BARS, bars, render
from ringblk.shm.layout.histogram import RELATIVE_ERROR, Histogram
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.block.parser import OPERATION_NAMES
from ringblk.workers.requests.request import RequestParser

READ, WRITE, OTHER = 1 + OPERATION_NAMES.index("read"), 1 + OPERATION_NAMES.index("write"), 0
MICROSECOND_NS = 1000


@pytest.fixture
def state() -> Iterator[StateSegment]:
    segment = StateSegment.create(f"ringblk-test-{uuid.uuid4().hex}", 64, 16, "block", OPERATION_NAMES)
    segment.set_engine("/images/disk.img", os.getpid(), 2, 0)
    segment.set_dispatcher(17)
    yield segment
    segment.close()


@pytest.fixture
def recorder(state: StateSegment) -> RequestRecorder:
    return RequestRecorder(state, RequestParser())


def operation(snapshot: StatisticsSnapshot, name: str) -> OperationSnapshot:
    return next(item for item in snapshot.operations if item.operation == name)


def record(
    recorder: RequestRecorder,
    count: int,
    *,
    operation: int = READ,
    wait_us: int = 10,
    service_us: int = 100,
    length_bytes: int = 4096,
    status: int = 0,
    throttled_us: int = 0,
    queue_index: int = 0,
) -> None:
    recorder.fill_slot(
        0,
        operation=operation,
        wait_ns=wait_us * MICROSECOND_NS,
        service_ns=service_us * MICROSECOND_NS,
        length_bytes=length_bytes,
        status=status,
        throttled_ns=throttled_us * MICROSECOND_NS,
        queue_index=queue_index,
    )
    recorder.record_many(0, count)


def test_requests_are_counted_by_operation(state: StateSegment, recorder: RequestRecorder) -> None:
    record(recorder, 3)
    record(recorder, 2, operation=WRITE, length_bytes=512, throttled_us=7, queue_index=1)
    record(recorder, 1, operation=WRITE, length_bytes=512, status=1)
    snapshot = take_snapshot(state)
    read, write, other = (operation(snapshot, name) for name in ("read", "write", "other"))
    assert (read.request_count, read.byte_count, read.error_count) == (3, 3 * 4096, 0)
    assert (write.request_count, write.byte_count, write.error_count) == (3, 1024, 1)
    assert (write.throttled_count, write.throttled_ns) == (2, 14 * MICROSECOND_NS)
    assert other.request_count == 0
    assert [queue.used_count for queue in snapshot.queues] == [4, 2]


def test_waits_and_services_are_told_apart(state: StateSegment, recorder: RequestRecorder) -> None:
    record(recorder, 99, wait_us=10, service_us=100)
    record(recorder, 1, wait_us=2_000_000, service_us=90_000_000)
    read = operation(take_snapshot(state), "read")
    assert read.queue_wait.percentile(50) == pytest.approx(10_000, rel=RELATIVE_ERROR)
    assert read.service.percentile(99) == pytest.approx(100_000, rel=RELATIVE_ERROR)
    assert read.queue_wait.percentile(99.9) == pytest.approx(2e9, rel=RELATIVE_ERROR)
    assert read.service.percentile(99.9) == pytest.approx(90e9, rel=RELATIVE_ERROR)


def test_times_that_run_backwards_count_as_none(state: StateSegment, recorder: RequestRecorder) -> None:
    recorder.fill_slot(0, operation=READ, wait_ns=-1 & (1 << 64) - 1, service_ns=5)
    recorder.record_many(0, 1)
    assert operation(take_snapshot(state), "read").queue_wait.percentile(100) == 0


def test_a_reader_attaches_by_name_and_counters_go_on(state: StateSegment, recorder: RequestRecorder) -> None:
    record(recorder, 5)
    attached = StateSegment.attach(state.name)
    assert operation(take_snapshot(attached), "read").request_count == 5
    record(RequestRecorder(state, RequestParser()), 5)  # of the next dispatcher
    assert operation(take_snapshot(attached), "read").request_count == 10
    assert DriveSegment.named(state.name).is_held()
    attached.close()


def test_requests_in_flight_are_counted_and_aged(state: StateSegment, recorder: RequestRecorder) -> None:
    second_ns = 1_000_000_000
    recorder.fill_slot(3, operation=READ, wait_ns=second_ns, service_ns=0, queue_index=1, slot_state=1)
    recorder.fill_slot(7, operation=READ, wait_ns=5 * second_ns, service_ns=0, queue_index=1, slot_state=2)
    snapshot = take_snapshot(state)
    assert [queue.depth for queue in snapshot.queues] == [0, 2]
    assert snapshot.depth == 2
    assert 5 * second_ns <= snapshot.oldest_request_ns < 60 * second_ns


def test_workers_are_listed_while_they_live(state: StateSegment) -> None:
    state.set_worker(0, 100)
    state.set_worker(5, 105)
    state.set_worker(5, 0)
    assert [worker.worker_index for worker in take_snapshot(state).workers] == [0]
    state.set_worker(5, 106, True)
    assert [(w.pid, w.restart_count) for w in take_snapshot(state).workers] == [(100, 0), (106, 1)]


def test_json_has_percentiles(state: StateSegment, recorder: RequestRecorder) -> None:
    record(recorder, 10, service_us=100)
    decoded = msgspec.json.decode(encode_json([take_snapshot(state)]))
    read = next(item for item in decoded[0]["operations"] if item["operation"] == "read")
    assert read["service"]["count"] == 10
    assert read["service"]["p999_ns"] == pytest.approx(100_000, rel=RELATIVE_ERROR)
    assert decoded[0]["drive"] == "/images/disk.img"


def test_stat_shows_what_there_is(state: StateSegment, recorder: RequestRecorder) -> None:
    record(recorder, 1234, service_us=100)
    state.set_worker(0, 4242)
    text = describe(take_snapshot(state))
    assert "/images/disk.img" in text
    assert "1.23k" in text
    assert "4242" in text
    assert "write" not in text  # there were none


def shown(*pairs: tuple[StatisticsSnapshot, StatisticsSnapshot]) -> str:
    console = Console(file=io.StringIO(), width=110, force_terminal=False)
    console.print(render(pairs))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def later(snapshot: StatisticsSnapshot, seconds: int, before: StatisticsSnapshot) -> StatisticsSnapshot:
    return msgspec.structs.replace(snapshot, taken_ns=before.taken_ns + seconds * 1_000_000_000)


def test_top_shows_what_happened_between_two_looks(state: StateSegment, recorder: RequestRecorder) -> None:
    state.set_worker(0, 4242)
    record(recorder, 1000, service_us=50_000)  # before the first look: not to be seen
    before = take_snapshot(state)
    record(recorder, 200, service_us=100)
    text = shown((before, later(take_snapshot(state), 2, before)))
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert lines["read"].split()[1:4] == ["100", "400", "KiB/s"]
    assert "99.8us" in lines["read"]  # the middle of a bucket
    assert "50.0ms" not in text
    assert lines["0"].split()[1] == "4242"
    assert "█" in lines["service"]


def test_top_shows_a_row_for_each_of_several_engines(state: StateSegment, recorder: RequestRecorder) -> None:
    before = take_snapshot(state)
    record(recorder, 10, operation=WRITE, length_bytes=1 << 20)
    after = later(take_snapshot(state), 1, before)
    text = shown((before, after), (before, before))
    assert text.count("/images/disk.img") == 2
    assert "10.0 MiB/s" in text


def test_a_drive_s_name_is_text_and_no_more(state: StateSegment) -> None:
    """Neither the terminal nor the table takes anything in it for an order."""
    state.set_engine("/tmp/[/red]x\x1b]0;owned\x07.img", os.getpid(), 1, 0)
    snapshot = take_snapshot(state)
    for text in (describe(snapshot), shown((snapshot, snapshot)), shown(*[(snapshot, snapshot)] * 2)):
        assert r"/tmp/[/red]x\x1b]0;owned\x07.img" in text
        assert "\x1b" not in text


def test_an_operation_s_name_is_text_and_no_more() -> None:
    """The segment says what they are called, and it may be anybody's."""
    name = f"ringblk-test-{uuid.uuid4().hex}"
    with contextlib.closing(StateSegment.create(name, 64, 16, "own", ["[/red]\x1b[2J\n"])) as state:
        record(RequestRecorder(state, RequestParser()), 1, operation=1)
        snapshot = take_snapshot(state)
    for text in (describe(snapshot), shown((snapshot, snapshot))):
        assert r"[/red]\x1b[2J\n" in text
        assert "\x1b" not in text


def test_top_compares_an_engine_with_itself_alone(state: StateSegment) -> None:
    """Whoever owns a segment may put another of its name in its place."""
    before = take_snapshot(state)
    other = msgspec.structs.replace(before, operations=before.operations[1:])
    assert pairs_of({"a": before}, {"a": before, "b": before}) == [(before, before)]
    assert pairs_of({"a": before}, {"a": other}) == []


def test_top_says_when_there_is_nothing() -> None:
    assert "no engine" in shown()


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (time_text(0), "-"),
        (time_text(850), "850ns"),
        (time_text(12_345), "12.3us"),
        (time_text(999_960), "1000us"),
        (time_text(1_200_000_000), "1.20s"),
        (size_text(512), "512 B"),
        (size_text(3 << 29), "1.50 GiB"),
        (count_text(17), "17"),
        (count_text(45_600_000), "45.6M"),
        (duration_text(200 * 10**9), "3m20s"),
        (duration_text(2 * 86400 * 10**9), "2d00h"),
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected
