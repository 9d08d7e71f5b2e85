"""The device's side of a virtqueue against the mock driver: any chain, any index, any corruption."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.queues.errors import RingError
from ringblk.shm.queues.inflight_region import queue_region_bytes
from ringblk.shm.queues.split.virtqueue import SplitVirtqueue
from ringblk.shm.queues.virtqueue import BROKEN_REASONS
from tests.rigs.inline_device import GPA, UVA_OFFSET, GuestRam
from tests.rigs.mock_driver import (
    AVAIL_F_NO_INTERRUPT,
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    USED_F_NO_NOTIFY,
    MockDriver,
)

BAD_ADDRESS, BAD_ORDER, BAD_TABLE = 1, 2, 4
RAM_BYTES = 1 << 21
CUTS = (0x180001, 0x180007, 0x180100, 0x181000, 0x181FFF, 0x190000)  # where buffers and tables lie
AVAIL_COUNT, HEAD_INDEX, HEAD_IN_FLIGHT, NEXT_INDEX, LOOP, INFLIGHT, MEMORY = 1, 2, 3, 4, 5, 7, 8


class Rig:
    """A virtqueue and the driver at its other side."""

    def __init__(
        self, queue_size: int, *, event_idx: bool = False, start: int = 0, chain_limit: int = 0
    ) -> None:
        self.ram = GuestRam(RAM_BYTES, CUTS)
        self.memory = self.ram.guest_memory()
        self.driver = MockDriver(self.ram.view, GPA, queue_size, event_idx=event_idx)
        self.driver.next_place = self.driver.places_gpa = GPA + 0x17F000
        self.driver.start_at(start)
        self.virtqueue = self.open(queue_size, event_idx, chain_limit, start)

    def open(
        self, queue_size: int, event_idx: bool = False, chain_limit: int = 0, start: int = 0
    ) -> SplitVirtqueue:
        driver = self.driver
        desc, avail, used = (gpa + UVA_OFFSET for gpa in (driver.desc_gpa, driver.avail_gpa, driver.used_gpa))
        virtqueue = SplitVirtqueue(3, queue_size, self.memory, desc, avail, used, event_idx, chain_limit)
        virtqueue.resume(bytearray(queue_region_bytes(queue_size)), 0, start)
        return virtqueue

    def close(self) -> None:
        self.ram.close()


@contextlib.contextmanager
def rig(queue_size: int, **options: Any) -> Iterator[Rig]:
    made = Rig(queue_size, **options)
    try:
        yield made
    finally:
        made.close()


def flatten(
    memory: GuestMemory, pieces: list[tuple[int, int, bool]], writable: bool
) -> list[tuple[int, int, int]]:
    return [
        part
        for gpa, length, is_writable in pieces
        if is_writable == writable
        for part in memory.ranges(gpa, length)
    ]


@st.composite
def chains(draw: st.DrawFn, most: int) -> tuple[list[tuple[int, int, bool]], bool | int]:
    readable = draw(st.integers(0, most))
    writable = draw(st.integers(0 if readable else 1, most - readable))
    pieces = [
        (GPA + draw(st.integers(0x17FF00, 0x182100)), draw(st.integers(0, 0x900)), place >= readable)
        for place in range(readable + writable)
    ]
    direct = draw(st.sampled_from([False, False, True, 0, 1, 2]))
    return pieces, direct if isinstance(direct, bool) else min(direct, len(pieces) - 1)


class VirtqueueMachine(RuleBasedStateMachine):
    """Chains go out, come in, are given back in any order and batch; nothing is lost, changed or doubled."""

    @initialize(
        size_bits=st.sampled_from([1, 2, 3, 5, 8, 15]),
        event_idx=st.booleans(),
        start=st.sampled_from([0, 1, 0x7FFE, 0xFFF0, 0xFFFF]),
    )
    def begin(self, size_bits: int, event_idx: bool, start: int) -> None:
        self.queue_size = 1 << size_bits
        self.rig = Rig(self.queue_size, event_idx=event_idx, start=start)
        self.driver, self.queue = self.rig.driver, self.rig.virtqueue
        self.event_idx = event_idx
        self.free = list(range(min(self.queue_size, 64))) + [self.queue_size - 1] * (self.queue_size > 64)
        # Head, pieces, descriptors taken.
        self.offered: list[tuple[int, list[tuple[int, int, bool]], int]] = []
        self.popped: list[int] = []
        self.taken: dict[int, list[int]] = {}
        self.next_avail = start
        self.used_idx = start
        self.last_called = start

    @precondition(lambda self: self.free)
    @rule(data=st.data(), count=st.integers(1, 4))
    def offer(self, data: st.DataObject, count: int) -> None:
        heads = []
        if not self.offered and not self.popped:
            self.driver.forget_places()
        for _ in range(count):
            if not self.free:
                break
            most = min(len(self.free), 6) if self.queue_size > 2 else min(len(self.free), 2)
            pieces, indirect = data.draw(chains(most))
            needed = len(pieces) if indirect is False else (0 if indirect is True else indirect) + 1
            indices = [self.free.pop(data.draw(st.integers(0, len(self.free) - 1))) for _ in range(needed)]
            head = self.driver.make_chain(pieces, indirect=indirect, indices=indices)
            assert head == indices[0]
            self.taken[head] = indices
            self.offered.append((head, pieces, needed))
            heads.append(head)
        self.driver.offer(*heads)

    @rule(count=st.integers(1, 5))
    def pop(self, count: int) -> None:
        for _ in range(count):
            found = self.queue.pop()
            if not self.offered:
                assert found is None
                return
            head, pieces, _ = self.offered.pop(0)
            memory = self.rig.memory
            assert found == (head, 0, flatten(memory, pieces, False), flatten(memory, pieces, True))
            self.popped.append(head)
            self.next_avail = (self.next_avail + 1) & 0xFFFF

    @precondition(lambda self: self.popped)
    @rule(data=st.data(), length=st.integers(0, 0xFFFFFFFF))
    def push(self, data: st.DataObject, length: int) -> None:
        batch = data.draw(st.lists(st.sampled_from(self.popped), unique=True, min_size=1))
        wanted = data.draw(st.integers(-2, 3))
        old = self.used_idx
        if self.event_idx:
            self.driver.used_event = (old + wanted) & 0xFFFF
            expected = 0 <= wanted < len(batch)
        else:
            self.driver.avail_flags = AVAIL_F_NO_INTERRUPT if wanted > 0 else 0
            expected = wanted <= 0
        assert self.queue.push([(head, length) for head in batch]) == expected
        self.used_idx = (old + len(batch)) & 0xFFFF
        assert self.driver.used() == [(head, length) for head in batch]
        for head in batch:
            self.popped.remove(head)
            self.free += self.taken.pop(head)

    @rule()
    def arm(self) -> None:
        if not self.event_idx:
            self.driver.used_flags = USED_F_NO_NOTIFY
        assert self.queue.ask_for_kick() == bool(self.offered)
        if self.event_idx:
            assert self.driver.avail_event == self.next_avail
        else:
            assert self.driver.used_flags == 0

    @invariant()
    def indexes_agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert self.queue.broken == 0
        assert self.queue.next_avail == self.next_avail
        assert self.queue.used_idx == self.driver.used_idx == self.used_idx

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.close()


TestVirtqueueMachine = VirtqueueMachine.TestCase
TestVirtqueueMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("queue_size", [2, 128, 32768])
def test_more_requests_than_a_16_bit_index_counts(queue_size: int) -> None:
    with rig(queue_size, event_idx=True, start=0xFF00) as made:
        driver, queue = made.driver, made.virtqueue
        driver.descriptor(0, GPA + 0x1000, 8, DESC_F_WRITE)
        driver.descriptor(1, GPA + 0x2000, 8, DESC_F_WRITE)
        for number in range(70000 if queue_size == 2 else 600):
            driver.offer(number % 2)
            found = queue.pop()
            assert found is not None
            assert found[0] == number % 2
            queue.push([(number % 2, number)])
            assert driver.used() == [(number % 2, number)]
        assert queue.broken == 0


def test_a_full_ring_of_the_largest_size() -> None:
    with rig(32768, start=0xFFFF) as made:
        driver, queue = made.driver, made.virtqueue
        for head in range(32768):
            driver.descriptor(head, GPA, 1, DESC_F_WRITE)
        driver.offer(*range(32768))
        heads = [queue.pop()[0] for _ in range(32768)]  # type: ignore[index]
        assert heads == list(range(32768))
        assert queue.pop() is None
        queue.push([(head, 1) for head in reversed(heads)])
        assert [head for head, _ in driver.used()] == heads[::-1]


# What one bad request is, and what breaks the queue.


def test_bad_addresses_are_noted_and_the_rest_is_served() -> None:
    with rig(8) as made:
        driver, queue = made.driver, made.virtqueue
        outside = GPA + RAM_BYTES
        driver.offer(driver.make_chain([(GPA, 4, False), (outside - 2, 4, False), (GPA + 8, 1, True)]))
        # Behind a bad address none is looked up: a chain may have thousands that take long.
        assert queue.pop() == (0, BAD_ADDRESS, [(0, 0, 4)], [])
        driver.offer(
            driver.make_chain([(GPA, 4, True), (GPA, 4, False), (GPA + 8, 1, True)], indices=[4, 5, 6])
        )
        head, flags, _, _ = queue.pop() or (0, 0, [], [])
        assert (head, flags) == (4, BAD_ORDER)
        driver.offer(driver.make_chain([(GPA, 4, False)], indices=[7]))
        assert queue.pop() == (7, 0, [(0, 0, 4)], [])


@pytest.mark.parametrize("ahead", [9, 100, 0x7FFF, 0xFFFF])
def test_avail_index_too_far_ahead(ahead: int) -> None:
    with rig(8) as made:
        made.driver.avail_idx = ahead
        assert made.virtqueue.pop() is None
        assert made.virtqueue.broken == AVAIL_COUNT


def test_avail_index_that_runs_backwards() -> None:
    with rig(8, start=5) as made:
        made.driver.avail_idx = 4
        assert made.virtqueue.pop() is None
        assert made.virtqueue.broken == AVAIL_COUNT


@pytest.mark.parametrize("head", [8, 9, 0xFFFF])
def test_head_out_of_range(head: int) -> None:
    with rig(8) as made:
        made.driver.offer(head)
        assert made.virtqueue.pop() is None
        assert made.virtqueue.broken == HEAD_INDEX


@pytest.mark.parametrize("next_index", [8, 0xFFFF])
def test_next_out_of_range(next_index: int) -> None:
    with rig(8) as made:
        made.driver.descriptor(0, GPA, 4, DESC_F_NEXT, next_index)
        made.driver.offer(0)
        assert made.virtqueue.pop() is None
        assert made.virtqueue.broken == NEXT_INDEX


@pytest.mark.parametrize("length", [1, 2, 8])
def test_loops(length: int) -> None:
    with rig(8) as made:
        for index in range(length):
            made.driver.descriptor(index, GPA, 4, DESC_F_NEXT, (index + 1) % length)
        made.driver.offer(0)
        assert made.virtqueue.pop() is None
        assert made.virtqueue.broken == LOOP


@pytest.mark.parametrize("chain_limit", [0, 20, 2000])
def test_an_indirect_chain_may_have_as_many_descriptors_as_is_allowed(chain_limit: int) -> None:
    """Not fewer than QEMU allows, which is what drivers go by; one more costs that request alone."""
    limit = max(1024, chain_limit)
    with rig(8, chain_limit=chain_limit) as made:
        driver = made.driver
        driver.offer(driver.make_chain([(GPA, 1, True)] * limit, indirect=True))
        assert made.virtqueue.pop() == (0, 0, [], [(0, 0, 1)] * limit)
        made.virtqueue.push([(0, 0)])
        driver.offer(driver.make_chain([(GPA, 1, True)] * (limit + 1), indirect=True))
        assert made.virtqueue.pop() == (0, BAD_TABLE, [], [(0, 0, 1)] * limit)
        made.virtqueue.push([(0, 0)])
        driver.offer(driver.make_chain([(GPA, 4, True)]))
        assert made.virtqueue.pop() == (0, 0, [], [(0, 0, 4)])


def test_descriptors_before_an_indirect_table_count_with_those_in_it() -> None:
    with rig(8) as made:
        driver = made.driver
        driver.offer(driver.make_chain([(GPA, 1, True)] * 1024, indirect=7))
        assert made.virtqueue.pop() == (0, 0, [], [(0, 0, 1)] * 1024)
        made.virtqueue.push([(0, 0)])
        driver.offer(driver.make_chain([(GPA, 1, True)] * 1025, indirect=7))
        head, flags, _, _ = made.virtqueue.pop() or (9, 0, [], [])
        assert (head, flags) == (0, BAD_TABLE)


def test_broken_is_sticky_and_named() -> None:
    assert sorted(BROKEN_REASONS) == [
        AVAIL_COUNT,
        HEAD_INDEX,
        HEAD_IN_FLIGHT,
        NEXT_INDEX,
        LOOP,
        INFLIGHT,
        MEMORY,
    ]
    with rig(8) as made:
        driver, queue = made.driver, made.virtqueue
        driver.offer(9)
        assert queue.pop() is None
        driver.write_avail(0, 0)
        driver.descriptor(0, GPA, 4)
        assert queue.pop() is None
        assert queue.broken == HEAD_INDEX
        again = made.open(8)
        assert again.pop() == (0, 0, [(0, 0, 4)], [])


def test_an_indirect_table_that_straddles_regions() -> None:
    with rig(16) as made:
        driver = made.driver
        for cut in CUTS[:4]:
            driver.next_place = GPA + cut - 24
            pieces = [(GPA + place, place + 1, place > 3) for place in range(8)]
            table_gpa = driver.next_place + 3
            driver.next_place = table_gpa
            for index, (gpa, length, writable) in enumerate(pieces):
                flags = DESC_F_WRITE * writable | DESC_F_NEXT * (index < 7)
                driver.descriptor(index, gpa, length, flags, index + 1, table_gpa=table_gpa)
            driver.descriptor(9, table_gpa, 8 * 16, DESC_F_INDIRECT | DESC_F_WRITE)
            driver.offer(9)
            expected = flatten(made.memory, pieces, False), flatten(made.memory, pieces, True)
            assert made.virtqueue.pop() == (9, 0, *expected)
            made.virtqueue.push([(9, 0)])


# Where rings may be.


@pytest.mark.parametrize("queue_size", [0, 1, 3, 100, 65536])
def test_a_queue_size_that_cannot_be(queue_size: int) -> None:
    with rig(8) as made, pytest.raises(RingError, match="power of two"):
        made.open(queue_size)


@pytest.mark.parametrize("ring", [0, 1, 2])
def test_rings_must_lie_in_one_region_and_be_aligned(ring: int) -> None:
    with rig(8) as made:
        uvas = [
            gpa + UVA_OFFSET for gpa in (made.driver.desc_gpa, made.driver.avail_gpa, made.driver.used_gpa)
        ]
        names = ["descriptor table", "avail ring", "used ring"]
        for uva, problem in [
            (GPA + UVA_OFFSET + RAM_BYTES, "not within one memory region"),
            (GPA + UVA_OFFSET + CUTS[3] - 16, "not within one memory region"),
            (uvas[ring] + 1, "not aligned"),
        ]:
            desc, avail, used = (uva if place == ring else right for place, right in enumerate(uvas))
            with pytest.raises(RingError, match=f"{names[ring]} at .* is {problem}"):
                SplitVirtqueue(0, 8, made.memory, desc, avail, used, False)


def test_rings_are_found_again_after_the_table_changed() -> None:
    with rig(8) as made:
        driver, queue, memory = made.driver, made.virtqueue, made.memory
        for index in range(len(made.ram.regions)):
            memory.remove(index)
        with pytest.raises(RingError, match="not within"):
            queue.remap()
        whole = MemoryRegion(GPA, RAM_BYTES, GPA + UVA_OFFSET, 0)
        memory.add(40, whole, made.ram.fd, 50)
        queue.remap()
        for index in range(len(made.ram.regions)):
            memory.unmap(index)
        driver.offer(driver.make_chain([(GPA + 16, 4, True)]))
        assert queue.pop() == (0, 0, [], [(40, 16, 4)])
        queue.push([(0, 4)])
        assert driver.used() == [(0, 4)]
