"""DriverVirtqueue against a model device: plain Python on the same memory (virtio 1.2, 2.7)."""

import mmap
import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringblk.shm.queues.driver_virtqueue import DeviceBroken, DriverVirtqueue, QueueFull, ring_bytes

GPA = 0x1_0000_0000
Piece = tuple[int, int, bool]


class ModelDevice:
    """The device's side: reads what the driver wrote, uses chains in any order it is told to."""

    def __init__(self, memory: mmap.mmap, queue: DriverVirtqueue) -> None:
        self.memory, self.size = memory, queue.queue_size
        self.desc, self.avail, self.used = (
            gpa - queue.gpa for gpa in (queue.desc_gpa, queue.avail_gpa, queue.used_gpa)
        )
        self.next_avail = self.used_idx = 0

    def load16(self, offset: int) -> int:
        return int(struct.unpack_from("<H", self.memory, offset)[0])

    def avail_idx(self) -> int:
        return self.load16(self.avail + 2)

    def pop(self) -> int:
        head = self.load16(self.avail + 4 + 2 * (self.next_avail % self.size))
        self.next_avail = (self.next_avail + 1) % 65536
        return head

    def pieces(self, head: int) -> list[Piece]:
        gpa, length, flags, _ = struct.unpack_from("<QIHH", self.memory, self.desc + 16 * head)
        if flags & 4:
            assert flags == 4
            return self.walk(gpa - GPA, length // 16, 0)
        return self.walk(self.desc, self.size, head)

    def walk(self, table: int, count: int, index: int) -> list[Piece]:
        pieces = []
        for _ in range(count):
            gpa, length, flags, link = struct.unpack_from("<QIHH", self.memory, table + 16 * index)
            pieces.append((gpa, length, bool(flags & 2)))
            if not flags & 1:
                return pieces
            index = link
        raise AssertionError("the chain does not end")

    def put_used(self, head: int, length: int) -> None:
        struct.pack_into("<II", self.memory, self.used + 4 + 8 * (self.used_idx % self.size), head, length)
        self.used_idx = (self.used_idx + 1) % 65536

    def publish(self) -> None:
        struct.pack_into("<H", self.memory, self.used + 2, self.used_idx)

    def use(self, head: int, length: int) -> None:
        self.put_used(head, length)
        self.publish()

    def ask_kick(self, avail_event: int) -> None:
        struct.pack_into("<H", self.memory, self.used + 4 + 8 * self.size, avail_event % 65536)

    def used_event(self) -> int:
        return self.load16(self.avail + 4 + 2 * self.size)

    def set_no_notify(self, value: bool) -> None:
        struct.pack_into("<H", self.memory, self.used, value)


def make_queue(
    queue_size: int, *, event_idx: bool = True, spare_bytes: int = 4096
) -> tuple[DriverVirtqueue, ModelDevice]:
    memory = mmap.mmap(-1, ring_bytes(queue_size) + spare_bytes)
    queue = DriverVirtqueue(memory, GPA, queue_size, event_idx=event_idx)
    return queue, ModelDevice(memory, queue)


piece_lists = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.booleans()), min_size=1, max_size=8
)


class DriverMachine(RuleBasedStateMachine):
    """Any order of adding, publishing, kicking, using and popping, against lists and dicts."""

    @initialize(order=st.integers(1, 5), event_idx=st.booleans())
    def start(self, order: int, event_idx: bool) -> None:
        self.queue, self.device = make_queue(2**order, event_idx=event_idx, spare_bytes=(2**order + 1) * 128)
        self.free = self.queue.queue_size
        self.added: list[int] = []
        self.offered: list[int] = []
        self.popped: list[int] = []
        self.used: list[tuple[int, int]] = []
        self.chains: dict[int, tuple[list[Piece], int]] = {}
        self.cost: dict[int, int] = {}
        self.unasked = 0
        self.published = 0

    @rule(pieces=piece_lists, indirect=st.booleans())
    def add(self, pieces: list[Piece], indirect: bool) -> None:
        size = self.queue.queue_size
        # Where no table in flight lies: by the count of chains, which is below the queue size.
        places = {place for _, place in self.chains.values()}
        place = min(set(range(size + 1)) - places)
        indirect_gpa = GPA + ring_bytes(size) + 128 * place if indirect else None
        cost = 1 if indirect else len(pieces)
        if len(pieces) > size:
            with pytest.raises(ValueError, match="pieces"):
                self.queue.add_chain(pieces, indirect_gpa=indirect_gpa)
        elif cost > self.free:
            with pytest.raises(QueueFull):
                self.queue.add_chain(pieces, indirect_gpa=indirect_gpa)
        else:
            head = self.queue.add_chain(pieces, indirect_gpa=indirect_gpa)
            assert head not in self.chains
            self.chains[head] = (pieces, place)
            self.cost[head] = cost
            self.added.append(head)
            self.free -= cost

    @rule()
    def publish(self) -> None:
        assert self.device.avail_idx() == self.published % 65536
        assert self.queue.publish() == len(self.added)
        self.unasked += len(self.added)
        self.published += len(self.added)
        self.offered += self.added
        self.added = []
        assert self.device.avail_idx() == self.published % 65536

    @rule(distance=st.integers(-4, 4), no_notify=st.booleans())
    def kick(self, distance: int, no_notify: bool) -> None:
        event = self.published - 1 + distance
        self.device.ask_kick(event)
        if not self.queue.event_idx:
            self.device.set_no_notify(no_notify)
            wanted = self.unasked > 0 and not no_notify
        else:
            wanted = self.published - self.unasked <= event < self.published
        assert self.queue.needs_kick() == wanted
        self.unasked = 0

    @precondition(lambda self: self.offered)
    @rule()
    def device_pops(self) -> None:
        head = self.device.pop()
        assert head == self.offered.pop(0)
        assert self.device.pieces(head) == self.chains[head][0]
        self.popped.append(head)

    @precondition(lambda self: self.popped)
    @rule(data=st.data(), publish=st.booleans())
    def device_uses(self, data: st.DataObject, publish: bool) -> None:
        head = self.popped.pop(data.draw(st.integers(0, len(self.popped) - 1)))
        room = sum(length for _, length, writable in self.chains[head][0] if writable)
        length = data.draw(st.integers(0, min(room, 2**32 - 1)))
        self.device.put_used(head, length)
        self.used.append((head, length))
        if publish:
            self.device.publish()

    @rule(max_count=st.integers(0, 5))
    def pop_used(self, max_count: int) -> None:
        self.device.publish()
        expected, self.used = self.used[:max_count], self.used[max_count:]
        assert self.queue.pop_used(max_count) == expected
        for head, _ in expected:
            del self.chains[head]
            self.free += self.cost.pop(head)

    @rule(data=st.data())
    def arm(self, data: st.DataObject) -> None:
        self.device.publish()
        count = data.draw(st.integers(1, max(1, len(self.chains))))
        assert self.queue.arm(count) == (len(self.used) >= (count if self.queue.event_idx else 1))
        if self.queue.event_idx:
            assert self.device.used_event() == (self.queue.next_used + count - 1) % 65536
        assert self.device.load16(self.device.avail) == 0
        with pytest.raises(ValueError, match="in flight"):
            self.queue.arm(max(1, len(self.chains)) + 1)

    @rule()
    def disarm(self) -> None:
        self.queue.disarm()
        if self.queue.event_idx:
            assert (self.device.used_event() - self.queue.next_used) % 65536 == 0x8000
        assert self.device.load16(self.device.avail) == (0 if self.queue.event_idx else 1)

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.free_count == self.free
        assert self.queue.inflight_count == len(self.chains)
        assert not self.queue.broken


TestDriverMachine = DriverMachine.TestCase
TestDriverMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("queue_size", [0, 1, 3, 24, 65536, -2])
def test_refuses_a_queue_size_that_is_not_one(queue_size: int) -> None:
    with pytest.raises(ValueError, match="queue size"):
        DriverVirtqueue(bytearray(8192), GPA, queue_size)


def test_refuses_rings_that_do_not_fit_and_memory_that_cannot_be_written() -> None:
    memory = mmap.mmap(-1, ring_bytes(256))
    DriverVirtqueue(memory, GPA, 256)
    for offset in (64, 2**63):
        with pytest.raises(ValueError, match="do not fit"):
            DriverVirtqueue(memory, GPA, 256, offset_bytes=offset)
    with pytest.raises(ValueError, match="not aligned"):
        DriverVirtqueue(memory, GPA, 2, offset_bytes=8)
    with pytest.raises(BufferError):
        DriverVirtqueue(bytes(8192), GPA, 2)


@pytest.mark.parametrize("gpa", [0, GPA - 16, GPA + ring_bytes(4) + 4096 - 16, 2**64 - 16])
def test_refuses_an_indirect_table_outside_its_memory(gpa: int) -> None:
    queue, _ = make_queue(4)
    with pytest.raises(ValueError, match="outside"):
        queue.add_chain([(0, 1, False), (0, 1, True)], indirect_gpa=gpa)
    assert (queue.free_count, queue.inflight_count) == (4, 0)


@pytest.mark.parametrize(("queue_size", "event_idx"), [(2, True), (2, False), (256, True), (32768, True)])
def test_indices_wrap_around(queue_size: int, event_idx: bool) -> None:
    queue, device = make_queue(queue_size, event_idx=event_idx)
    total = 0
    while total < 65536 + 3 * queue_size:
        heads = [queue.add_chain([(GPA, 7, True)]) for _ in range(queue_size)]
        with pytest.raises(QueueFull):
            queue.add_chain([(GPA, 1, True)])
        queue.publish()
        device.ask_kick(total + queue_size - 1)
        assert queue.needs_kick()
        assert not queue.arm()
        assert not event_idx or device.used_event() == total % 65536
        assert [device.pop() for _ in heads] == heads
        for head in reversed(heads):
            device.put_used(head, 7)
        device.publish()
        assert queue.arm()
        assert queue.pop_used() == [(head, 7) for head in reversed(heads)]
        total += queue_size
    assert (queue.next_used, queue.next_avail) == (total % 65536, total % 65536)


@pytest.mark.parametrize(
    ("head_offset", "length"),
    [(1, 0), (4, 0), (2**31, 0), (0, 101), (0, 2**32 - 1)],
    ids=["not in flight", "past the queue", "far past", "one byte too many", "far too many"],
)
def test_a_used_element_that_cannot_be_breaks_the_queue(head_offset: int, length: int) -> None:
    queue, device = make_queue(4)
    head = queue.add_chain([(GPA, 50, False), (GPA, 60, True), (GPA, 40, True)])
    queue.publish()
    device.use(head + head_offset, length)
    for _ in range(2):
        with pytest.raises(DeviceBroken):
            queue.pop_used()
    assert queue.broken
    with pytest.raises(DeviceBroken):
        queue.add_chain([(GPA, 1, True)])


def test_a_chain_used_twice_breaks_the_queue() -> None:
    queue, device = make_queue(4)
    heads = [queue.add_chain([(GPA, 1, True)]) for _ in range(2)]
    queue.publish()
    device.use(heads[0], 1)
    assert queue.pop_used() == [(heads[0], 1)]
    device.use(heads[0], 1)
    with pytest.raises(DeviceBroken):
        queue.pop_used()


def test_a_used_index_past_what_is_in_flight_breaks_the_queue() -> None:
    queue, device = make_queue(4)
    head = queue.add_chain([(GPA, 1, True)])
    queue.publish()
    device.put_used(head, 1)
    device.put_used(head, 1)
    device.publish()
    with pytest.raises(DeviceBroken):
        queue.pop_used()


def test_a_device_that_scribbles_on_descriptors_confuses_nobody_but_itself() -> None:
    queue, device = make_queue(8)
    heads = [queue.add_chain([(GPA, 1, False)] * 3 + [(GPA, 1, True)]) for _ in range(2)]
    queue.publish()
    device.memory[: 16 * 8] = b"\xff" * (16 * 8)
    for head in heads:
        device.use(head, 1)
    assert queue.pop_used() == [(head, 1) for head in heads]
    assert queue.free_count == 8
    queue.add_chain([(GPA, 1, True)] * 8)
    queue.publish()
    device.pop(), device.pop()
    assert device.pieces(device.pop()) == [(GPA, 1, True)] * 8


def test_the_room_of_a_chain_is_its_own_and_not_what_went_before() -> None:
    queue, device = make_queue(4)
    for length in (100, 50):
        head = queue.add_chain([(GPA, length, True)])
        queue.publish()
        device.use(head, length)
        assert queue.pop_used() == [(head, length)]
    device.use(queue.add_chain([(GPA, 10, True)]), 11)
    queue.publish()
    with pytest.raises(DeviceBroken):
        queue.pop_used()


def test_a_new_device_is_offered_exactly_what_the_old_one_left() -> None:
    queue, device = make_queue(4)
    heads = [queue.add_chain([(GPA, index, True)]) for index in range(4)]
    queue.publish()
    device.use(heads[2], 0)
    device.use(heads[0], 0)
    assert len(queue.pop_used()) == 2
    late = queue.add_chain([(GPA, 9, True)])
    queue.offer_again()
    queue.publish()
    new = ModelDevice(device.memory, queue)
    new.next_avail = new.used_idx = queue.used_idx
    assert new.avail_idx() - new.next_avail == 3
    left = [new.pop() for _ in range(3)]
    assert sorted(left) == sorted([heads[1], heads[3], late])
    for head in left:
        new.use(head, 0)
    assert queue.pop_used() == [(head, 0) for head in left]
    assert (queue.inflight_count, queue.free_count) == (0, 4)
