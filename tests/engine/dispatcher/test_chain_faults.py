"""What is wrong with one request costs that request, and what is wrong with the ring itself costs the queue.

Fault model: a driver writes anything into an indirect table and into the descriptor that refers to it.
"""

from collections.abc import Callable, Iterator

import pytest

from ringblk.shm.state.segment import MAX_CHAIN_DESCRIPTORS
from ringblk.workers.backends.memory import MemoryBackend
from tests.rigs.inline_device import GET_ID, GPA, IN, IOERR, OK, OUT, InlineDevice
from tests.rigs.mock_driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MockDriver

DISK_BYTES = 1 << 20
QUEUE_SIZE = 8
CUTS = (0x80000, 0x80800)
UNTOUCHED = 0xAA
ENTRIES = 3
TABLE_BYTES = 16 * ENTRIES


class Read:
    """A sound read by an indirect table, for a fault to be put into."""

    def __init__(self, driver: MockDriver) -> None:
        driver.forget_places()
        self.driver = driver
        self.data_gpa = driver.place(bytes([UNTOUCHED]) * 512)
        self.status_gpa = driver.place(bytes([UNTOUCHED]))
        self.pieces = [
            (driver.place(IN.to_bytes(16, "little")), 16, 0),
            (self.data_gpa, 512, DESC_F_WRITE),
            (self.status_gpa, 1, DESC_F_WRITE),
        ]
        self.table_gpa = driver.reserve(TABLE_BYTES, 16)
        for index in range(ENTRIES):
            self.entry(index, DESC_F_NEXT * (index + 1 < ENTRIES), index + 1)
        self.refer()

    def entry(self, index: int, flags: int, next_index: int = 0) -> None:
        gpa, size_bytes, kind = self.pieces[index]
        self.driver.descriptor(index, gpa, size_bytes, kind | flags, next_index, table_gpa=self.table_gpa)

    def refer(self, size_bytes: int = TABLE_BYTES, flags: int = 0, next_index: int = 0) -> None:
        self.driver.descriptor(0, self.table_gpa, size_bytes, DESC_F_INDIRECT | flags, next_index)

    def nest(self, index: int, flags: int, next_index: int = 0) -> None:
        inner_gpa = self.driver.make_table([(self.data_gpa, 512, True)])
        self.driver.descriptor(
            index, inner_gpa, 16, DESC_F_INDIRECT | flags, next_index, table_gpa=self.table_gpa
        )

    def move(self, gpa: int) -> None:
        """Put the table there, as far as there is memory."""
        content = self.driver.read(self.table_gpa, TABLE_BYTES)
        self.driver.write(gpa, content[: GPA + (1 << 20) - gpa])
        self.table_gpa = gpa
        self.refer()

    def lead_on(self, next_index: int) -> None:
        """Have the descriptor that refers to the table lead on to another."""
        self.refer(flags=DESC_F_NEXT, next_index=next_index)

    def lead_on_to_status(self) -> None:
        """Leave the status byte to a descriptor behind the table."""
        self.entry(1, 0)
        self.lead_on(1)
        self.driver.descriptor(1, self.status_gpa, 1, DESC_F_WRITE)


STATUS, DATA, NOWHERE = "in the status byte", "in the last writable byte", "nowhere"
FAULTS: dict[str, tuple[Callable[[Read], None], str]] = {
    "a table without entries": (lambda read: read.refer(0), NOWHERE),
    "a table shorter than an entry": (lambda read: read.refer(15), NOWHERE),
    "a table that ends in an entry": (lambda read: read.refer(TABLE_BYTES + 8), STATUS),
    "a table of 4 GiB": (lambda read: read.refer(0xFFFFFFF0), NOWHERE),
    "a table outside memory": (lambda read: read.driver.descriptor(0, 0, 48, DESC_F_INDIRECT), NOWHERE),
    "a table half outside memory": (lambda read: read.move(GPA + (1 << 20) - 32), NOWHERE),
    "an index one too high": (lambda read: read.entry(2, DESC_F_NEXT, ENTRIES), STATUS),
    "an index far too high": (lambda read: read.entry(1, DESC_F_NEXT, 0xFFFF), DATA),
    "a loop": (lambda read: read.entry(2, DESC_F_NEXT, 0), STATUS),
    "an entry that follows itself": (lambda read: read.entry(0, DESC_F_NEXT, 0), NOWHERE),
    "a table in a table": (lambda read: read.nest(1, DESC_F_NEXT, 2), STATUS),
    "a table at the end of a table": (lambda read: read.nest(2, 0), DATA),
    "a table with a next one": (lambda read: read.lead_on(1), STATUS),
    "a table with itself as the next one": (lambda read: read.lead_on(0), STATUS),
    "a table with a next one outside": (lambda read: read.lead_on(0xFFFF), STATUS),
    "a status byte behind the table": (lambda read: read.lead_on_to_status(), STATUS),
}


@pytest.fixture
def device() -> Iterator[InlineDevice]:
    with InlineDevice(MemoryBackend(DISK_BYTES), queue_size=QUEUE_SIZE, cuts=CUTS) as made:
        yield made


def assert_serves(device: InlineDevice) -> None:
    assert device.virtqueue.broken == 0
    data = bytes(range(256)) * 2
    assert device.request(OUT, 3, data=data)[:2] == (OK, 1)
    assert device.request(IN, 3, read_bytes=512, indirect=True) == (OK, 513, data)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_request_costs_that_request(device: InlineDevice, fault: str) -> None:
    make, where = FAULTS[fault]
    read = Read(device.driver)
    make(read)
    device.driver.offer(0)
    assert device.run() == [(0, 0 if where == NOWHERE else 1)]
    data = device.driver.read(read.data_gpa, 512)
    status = device.driver.read(read.status_gpa, 1)[0]
    assert set(data[:-1]) == {UNTOUCHED}
    assert data[-1] == (IOERR if where == DATA else UNTOUCHED)
    assert status == (IOERR if where == STATUS else UNTOUCHED)
    assert_serves(device)


def test_a_table_that_is_longer_than_its_chain(device: InlineDevice) -> None:
    """Its length is no fault: what the chain takes of it counts."""
    read = Read(device.driver)
    read.refer(16 * 0x1000)
    device.driver.offer(0)
    assert device.run() == [(0, 513)]
    assert device.driver.read(read.status_gpa, 1)[0] == OK


def long_pieces(driver: MockDriver, descriptor_count: int, step_bytes: int) -> list[tuple[int, int, bool]]:
    """A write of a sector, in a chain of so many descriptors of so many bytes, the last ones of none."""
    driver.forget_places()
    header = driver.place(OUT.to_bytes(16, "little"))
    data_gpa = driver.place(bytes(index % 251 for index in range(512)))
    pieces = [(header, 16, False)]
    for index in range(descriptor_count - 2):
        start = min(index * step_bytes, 512)
        pieces.append((data_gpa + start, min(step_bytes, 512 - start), False))
    return [*pieces, (driver.place(b"\xff"), 1, True)]


@pytest.mark.parametrize("more", [0, 1, 2, 200])
def test_a_chain_of_more_descriptors_than_any_may_have(device: InlineDevice, more: int) -> None:
    """The limit is QEMU's, whatever the queue size; one beyond it is answered."""
    pieces = long_pieces(device.driver, MAX_CHAIN_DESCRIPTORS + more, 1)
    device.driver.offer(device.driver.make_chain(pieces, indirect=True))
    assert device.run() == [(0, 1)]
    assert device.driver.read(pieces[-1][0], 1)[0] == (IOERR if more else OK)
    assert_serves(device)


@pytest.mark.parametrize("gpa", [CUTS[0] + GPA, CUTS[1] + GPA])
def test_each_descriptor_of_a_long_chain_may_straddle_regions(device: InlineDevice, gpa: int) -> None:
    """More ranges than one system call takes; as many as there is room for, more are an error."""
    driver = device.driver
    header = driver.place(OUT.to_bytes(16, "little"))
    status = driver.place(b"\xff")
    driver.write(gpa - 64, bytes(range(128)))
    for count, outcome in ((512, OK), (700, OK), (800, IOERR)):
        buffers = [(gpa - 64, 128, False)] * count
        driver.offer(driver.make_chain([(header, 16, False), *buffers, (status, 1, True)], indirect=True))
        assert device.run() == [(0, 1)]
        assert driver.read(status, 1)[0] == outcome
    data = device.request(IN, read_bytes=700 * 128)[2]
    assert data == bytes(range(128)) * 700
    assert device.request(GET_ID, read_bytes=20)[0] == OK


def test_faults_of_one_request_leave_nothing_behind(device: InlineDevice) -> None:
    """However many: no slot, no list of ranges."""
    handover = device.loop.handover
    before = handover.free_count, handover.free_list_count
    assert before[1] == device.state.long_list_count > 0
    for _ in range(100):
        for descriptor_count in (100, 300, 1200):
            pieces = long_pieces(device.driver, descriptor_count, 3)
            device.driver.offer(device.driver.make_chain(pieces, indirect=True))
            device.run()
    assert (handover.free_count, handover.free_list_count) == before
