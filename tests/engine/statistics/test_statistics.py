"""What the dispatcher counts is what a snapshot says; what is shown is what a snapshot says."""

import contextlib
import os
import uuid

import msgspec
import pytest

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
from ringblk.engine.statistics.top_rows import DriveLook, row_between
from ringblk.engine.statistics.top_table import TopOrder, top_lines
from ringblk.engine.statistics.top_view import drive_lines
from ringblk.shm.layout.histogram import RELATIVE_ERROR
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.requests.request import RequestParser
from tests.rigs.recorded_requests import MICROSECOND_NS, READ, WRITE, record


def operation(snapshot: StatisticsSnapshot, name: str) -> OperationSnapshot:
    return next(item for item in snapshot.operations if item.operation == name)


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


def test_workers_are_listed_while_they_live_and_when_they_have_died(state: StateSegment) -> None:
    state.set_worker_limit(7)
    state.set_worker(0, 100)
    state.set_worker(5, 105)
    state.set_worker(5, 0)
    assert [worker.worker_index for worker in take_snapshot(state).workers] == [0]
    state.set_worker(5, 106)
    state.set_worker(5, 0, True)
    snapshot = take_snapshot(state)
    assert [(w.pid, w.restart_count) for w in snapshot.workers] == [(100, 0), (0, 1)]
    assert (snapshot.workers_up, snapshot.worker_limit) == (1, 7)
    assert "workers 1 of 7" in describe(snapshot)


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


def shown(snapshot: StatisticsSnapshot) -> str:
    return "\n".join(drive_lines(snapshot, snapshot, None))


def table_of(snapshot: StatisticsSnapshot) -> str:
    look = DriveLook.at(snapshot)
    return "\n".join(top_lines([row_between(look, look)], TopOrder(), None))


def test_a_drive_s_name_is_text_and_no_more(state: StateSegment) -> None:
    """Neither the terminal nor the table takes anything in it for an order."""
    state.set_engine("", "/tmp/[/red]x\x1b]0;owned\x07.img", os.getpid(), 1, 0)
    snapshot = take_snapshot(state)
    for text in (describe(snapshot), shown(snapshot), table_of(snapshot)):
        assert r"/tmp/[/red]x\x1b]0;owned\x07.img" in text
        assert "\x1b" not in text


def test_an_operation_s_name_is_text_and_no_more() -> None:
    """The segment says what they are called, and it may be anybody's."""
    name = f"ringblk-test-{uuid.uuid4().hex}"
    with contextlib.closing(StateSegment.create(name, 64, 16, "own", ["[/red]\x1b[2J\n"])) as state:
        state.open_slots()
        record(RequestRecorder(state, RequestParser()), 1, operation=1)
        snapshot = take_snapshot(state)
    for text in (describe(snapshot), shown(snapshot)):
        assert r"[/red]\x1b[2J\n" in text
        assert "\x1b" not in text


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
