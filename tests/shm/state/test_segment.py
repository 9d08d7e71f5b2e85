"""The state segment's layout and checks."""

import os
import struct
import uuid
from collections.abc import Iterator

import pytest

from ringblk.engine.dispatcher.request_recorder import RequestRecorder
from ringblk.engine.statistics.statistics import take_snapshot
from ringblk.shm.segments.segment import HEADER, HEADER_BYTES, MAGIC, Segment, SegmentError
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import (
    LAYOUT_VERSION,
    MAX_RANGES_PER_SLOT,
    MAX_SLOTS,
    SEGMENT_KIND,
    StateSegment,
)
from ringblk.workers.block.parser import OPERATION_NAMES
from ringblk.workers.requests.request import RequestParser


@pytest.fixture
def name() -> Iterator[str]:
    unique = f"ringblk-test-{uuid.uuid4().hex}"
    yield unique
    assert shared_names(unique) == []


@pytest.mark.parametrize(("slot_count", "queue_size"), [(2, 2), (64, 128), (1024, 1024), (64, 32768)])
def test_created_and_attached_are_the_same(name: str, slot_count: int, queue_size: int) -> None:
    state = StateSegment.create(name, slot_count, queue_size)
    try:
        assert state.slot_count == slot_count
        assert state.ranges_per_slot > queue_size
        size_bytes = os.stat(f"/dev/shm/{name}").st_size
        assert size_bytes == StateSegment.size_bytes(slot_count, state.ranges_per_slot)
        other = StateSegment.attach(name)
        assert (other.name, other.slot_count, other.ranges_per_slot) == (
            name,
            slot_count,
            state.ranges_per_slot,
        )
        assert other.broken_reason(63) == 0
        assert other.used_count(63) == 0
        assert other.worker_counters(63) == (0, 0)
        other.close()
    finally:
        state.close()


@pytest.mark.parametrize("slot_count", [0, 1, 3, 100, 2 * MAX_SLOTS])
def test_a_slot_count_that_cannot_be(name: str, slot_count: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        StateSegment.create(name, slot_count, 128)


def test_a_segment_of_another_kind_or_size_is_refused(name: str) -> None:
    state = StateSegment.create(name, 64, 128)
    try:
        with Segment.attach(name, SEGMENT_KIND, LAYOUT_VERSION) as segment:
            segment.memory[64:68] = (128).to_bytes(4, "little")  # more slots than there is room for
        with pytest.raises(SegmentError, match="128 slots"):
            StateSegment.attach(name)
        os.truncate(f"/dev/shm/{name}", 4096)
        with pytest.raises(SegmentError, match="shorter"):
            StateSegment.attach(name)
    finally:
        state.close()


@pytest.mark.parametrize(
    ("slot_count", "ranges_per_slot"),
    [(1 << 28, 4294967256), (64, MAX_RANGES_PER_SLOT + 1), (2 * MAX_SLOTS, 1), (0, 0), (1, 1), (3, 1)],
)
def test_sizes_that_no_engine_has_are_refused(name: str, slot_count: int, ranges_per_slot: int) -> None:
    """Also where the file is as long as the sizes make it; those of the first wrap around to less."""
    size_bytes = StateSegment.size_bytes(slot_count, ranges_per_slot)
    assert size_bytes < 1 << 34
    state = StateSegment.create(name, 64, 128)
    try:
        os.truncate(f"/dev/shm/{name}", size_bytes)  # sparse
        with open(f"/dev/shm/{name}", "r+b") as file:
            file.write(HEADER.pack(MAGIC, LAYOUT_VERSION, int.from_bytes(b"stat", "little"), size_bytes))
            file.seek(HEADER_BYTES)
            file.write(struct.pack("<III", slot_count, ranges_per_slot, 1))
        with pytest.raises(SegmentError, match="no room for the"):
            StateSegment.attach(name)
    finally:
        state.close()


def test_it_holds_a_rate_limit(name: str) -> None:
    state = StateSegment.create(name, 64, 128)
    try:
        assert state.rate_limit.limited == []
    finally:
        state.close()


def allocated_kib(name: str) -> int:
    return os.stat(f"/dev/shm/{name}").st_blocks // 2


def test_memory_comes_when_it_is_wanted_and_goes_when_it_is_not(name: str) -> None:
    state = StateSegment.create(name, 128, 128, "block", OPERATION_NAMES)
    try:
        at_rest = allocated_kib(name)
        assert at_rest <= 16
        take_snapshot(state)
        StateSegment.attach(name).close()
        assert allocated_kib(name) == at_rest  # who looks leaves no trace
        state.open_slots()
        state.open_slots()
        with_slots = allocated_kib(name)
        assert at_rest < with_slots <= os.stat(f"/dev/shm/{name}").st_size // 1024
        for worker_index in (0, 1, 0):
            state.open_worker(worker_index)
        assert with_slots < allocated_kib(name) <= with_slots + 12
        state.close_slots()
        state.close_slots()
        assert at_rest < allocated_kib(name) <= at_rest + 12  # the workers' counters stay
        assert state.worker_counters(1) == (0, 0)
    finally:
        state.close()


def test_statistics_outlive_the_slots(name: str) -> None:
    state = StateSegment.create(name, 64, 16, "block", OPERATION_NAMES)
    try:
        state.set_engine("", "disk", os.getpid(), 1, 0)
        state.open_slots()
        recorder = RequestRecorder(state, RequestParser())
        recorder.fill_slot(0, operation=1, wait_ns=1000, service_ns=50_000, length_bytes=4096, slot_state=1)
        recorder.record_many(0, 7)
        assert take_snapshot(state).depth == 1
        state.close_slots()
        found = take_snapshot(state.copy())
        assert found.depth == 0
        (read, *others) = found.operations
        assert (read.request_count, read.service.count) == (7, 7)
        assert all(operation.request_count == 0 for operation in others)
        assert allocated_kib(name) <= 64
        state.open_slots()
        assert take_snapshot(state).depth == 0  # they are all free again
        assert take_snapshot(state).operations[0].request_count == 7
    finally:
        state.close()
