"""The state segment's layout and checks."""

import os
import struct
import uuid
from collections.abc import Iterator

import pytest

from ringblk.shm.segments.segment import HEADER, HEADER_BYTES, MAGIC, Segment, SegmentError
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import (
    LAYOUT_VERSION,
    MAX_RANGES_PER_SLOT,
    MAX_SLOTS,
    SEGMENT_KIND,
    StateSegment,
)


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
            file.write(struct.pack("<II", slot_count, ranges_per_slot))
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
