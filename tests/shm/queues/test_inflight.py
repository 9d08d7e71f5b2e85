"""In-flight records: the layout of the vhost-user specification, and recovery from every step of a batch."""

import functools
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.shm.queues.errors import InflightError
from ringblk.shm.queues.inflight_region import queue_region_bytes
from ringblk.shm.queues.split.inflight import ENTRY_BYTES, HEADER_BYTES, SplitInflight

SIZE = 8


class Region:
    """A region's bytes, read as the specification lays them out."""

    def __init__(self, queue_size: int = SIZE) -> None:
        self.data = bytearray(queue_region_bytes(queue_size))

    def header(self) -> tuple[int, int, int, int, int]:
        """features, version, desc_num, last_batch_head, used_idx"""
        return struct.unpack_from("<QHHHH", self.data, 0)

    def entry(self, head: int) -> tuple[int, int, int]:
        """inflight, next, counter"""
        return struct.unpack_from("<B5xHQ", self.data, 16 + 16 * head)

    def set_header(self, version: int, desc_num: int, last_batch_head: int, used_idx: int) -> None:
        struct.pack_into("<QHHHH", self.data, 0, 0, version, desc_num, last_batch_head, used_idx)

    def set_entry(self, head: int, inflight: int, next: int, counter: int) -> None:
        struct.pack_into("<B5xHQ", self.data, 16 + 16 * head, inflight, next, counter)

    def open(self, queue_size: int = SIZE) -> SplitInflight:
        return SplitInflight(self.data, 0, queue_size)


def test_the_layout_is_the_specifications() -> None:
    assert (HEADER_BYTES, ENTRY_BYTES) == (16, 16)
    region = Region()
    queue = region.open()
    assert queue.is_fresh
    assert queue.recover(77) == []
    assert not queue.is_fresh
    assert region.header() == (0, 1, SIZE, 0, 77)
    queue.fetch(3)
    queue.fetch(5)
    assert region.entry(3) == (1, 0, 0)
    assert region.entry(5) == (1, 0, 1)
    assert queue.count == 2
    queue.link(5)
    queue.link(3)
    assert region.header()[3] == 3
    assert region.entry(3)[:2] == (1, 5)
    queue.clear(5)
    queue.clear(3)
    queue.settle(79)
    assert region.header() == (0, 1, SIZE, 3, 79)
    assert queue.count == 0


@pytest.mark.parametrize("used_idx", [0, 5, 0xFFFF])
def test_a_fresh_region_on_a_used_ring_takes_the_rings_index(used_idx: int) -> None:
    """DESIGN, "Two rules that are easy to miss", 2: or the first recovery clears what nobody did."""
    region = Region()
    region.set_entry(2, 1, 0, 9)  # rubbish before it was ever initialised
    assert region.open().recover(used_idx) == []
    assert region.header()[4] == used_idx
    queue = region.open()
    assert queue.recover(used_idx) == []
    queue.fetch(4)
    assert region.open().recover(used_idx) == [4]


def steps(queue: SplitInflight, batch: list[int], ring: list[int]) -> list[Callable[[], object]]:
    """What completing a batch does, one write after the other."""
    new_idx = (ring[0] + len(batch)) & 0xFFFF
    return [
        *[functools.partial(queue.link, head) for head in batch],
        lambda: ring.__setitem__(0, new_idx),
        *[functools.partial(queue.clear, head) for head in batch],
        lambda: queue.settle(new_idx),
    ]


@settings(max_examples=300, deadline=None)
@given(
    order=st.permutations(range(SIZE)),
    batches=st.lists(st.integers(0, SIZE), max_size=4),
    start_idx=st.sampled_from([0, 1, 0xFFFC, 0xFFFF]),
    data=st.data(),
)
def test_recovery_after_any_step(
    order: list[int], batches: list[int], start_idx: int, data: st.DataObject
) -> None:
    """A writer that dies between any two writes leaves exactly what the ring does not show as used."""
    region = Region()
    queue = region.open()
    ring = [start_idx]
    queue.recover(start_idx)
    inflight: list[int] = []
    waiting = list(order)
    all_steps: list[Callable[[], object]] = []
    for count in batches:
        fetched, waiting = waiting[:count], waiting[count:]
        for head in fetched:
            queue.fetch(head)
        inflight += fetched
        batch = data.draw(st.lists(st.sampled_from(inflight), unique=True)) if inflight else []
        all_steps = steps(queue, batch, ring)
        died_at = data.draw(st.integers(0, len(all_steps)))
        for step in all_steps[:died_at]:
            step()
        published = died_at > len(batch)
        if published:
            inflight = [head for head in inflight if head not in batch]
            waiting += batch
        if died_at < len(all_steps):
            queue = region.open()
            assert queue.recover(ring[0]) == inflight  # oldest first
            assert list(queue.recovered) == inflight
            assert region.header()[4] == ring[0]
            assert [head for head in range(SIZE) if region.entry(head)[0]] == sorted(inflight)
    last = region.open()
    assert last.recover(ring[0]) == inflight
    free = next(head for head in range(SIZE) if head not in inflight) if len(inflight) < SIZE else None
    if free is not None:
        last.fetch(free)
        assert region.open().recover(ring[0]) == [*inflight, free]


def test_counters_go_on_after_recovery() -> None:
    region = Region()
    queue = region.open()
    queue.recover(0)
    for head in (6, 1, 4):
        queue.fetch(head)
    again = region.open()
    assert again.recover(0) == [6, 1, 4]
    again.fetch(0)
    assert again.counter(0) == 3


def test_the_largest_queue() -> None:
    region = Region(32768)
    queue = region.open(32768)
    queue.recover(0xFFFF)
    assert region.header() == (0, 1, 32768, 0, 0xFFFF)
    queue.fetch(32767)
    assert region.open(32768).recover(0xFFFF) == [32767]


@pytest.mark.parametrize("kept_size", [4, 16])
def test_another_queue_size_with_requests_in_flight_is_refused(kept_size: int) -> None:
    region = Region(16)
    region.set_header(1, kept_size, 0, 0)
    region.set_entry(1, 1, 0, 0)
    with pytest.raises(InflightError, match=f"{kept_size} entries, not 8"):
        region.open(8).recover(0)


def test_another_queue_size_with_nothing_in_flight_starts_anew() -> None:
    region = Region(16)
    region.set_header(1, 4, 3, 12)
    assert region.open(8).recover(40) == []
    assert region.header() == (0, 1, 8, 0, 40)


def test_what_contradicts_the_ring_is_refused() -> None:
    region = Region()
    region.set_header(1, SIZE, 0, 10)
    region.set_entry(1, 1, 0, 0)
    with pytest.raises(InflightError, match="used index 10, the ring at 19"):
        region.open().recover(19)
    with pytest.raises(InflightError, match="used index 10, the ring at 9"):
        region.open().recover(9)
    region.set_header(1, SIZE, SIZE, 10)
    with pytest.raises(InflightError, match="entry 8 of 8"):
        region.open().recover(11)
    region.set_header(1, SIZE, 1, 10)
    region.set_entry(1, 1, 999, 0)
    with pytest.raises(InflightError, match="entry 999 of 8"):
        region.open().recover(12)
    region.set_header(2, SIZE, 0, 10)
    with pytest.raises(InflightError, match="version 2"):
        region.open().recover(10)


def test_a_region_that_is_too_small_is_refused() -> None:
    assert queue_region_bytes(SIZE) % 64 == 0
    data = bytearray(2 * queue_region_bytes(SIZE))
    SplitInflight(data, queue_region_bytes(SIZE), SIZE)
    with pytest.raises(InflightError, match="too small"):
        SplitInflight(data, queue_region_bytes(SIZE), 2 * SIZE)
    with pytest.raises(InflightError, match="too small"):
        SplitInflight(data, len(data), SIZE)


@pytest.mark.parametrize("counter", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_counter_that_no_engine_has_reached_is_refused(counter: int) -> None:
    """A front end can write what it likes: the next counter must not overflow."""
    region = Region()
    region.set_header(1, SIZE, 0, 5)
    region.set_entry(3, 1, 0, counter)
    if counter < 1 << 63:
        assert region.open().recover(5) == [3]
    else:
        with pytest.raises(InflightError, match="counter"):
            region.open().recover(5)
