"""The mock driver itself: the bytes that it writes, spelled out from virtio 1.2, 2.7."""

import struct

import pytest

from tests.rigs.mock_driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MockDescriptor, MockDriver

GPA = 0x10000


@pytest.fixture
def driver() -> MockDriver:
    return MockDriver(memoryview(bytearray(8192)), GPA, 8, event_idx=True)


def test_the_rings_lie_where_virtio_puts_them(driver: MockDriver) -> None:
    assert driver.avail_gpa == GPA + 16 * 8
    assert driver.used_event_gpa == driver.avail_gpa + 4 + 2 * 8
    assert driver.used_gpa == GPA + 152  # 150 rounded up to a multiple of 4
    assert driver.avail_event_gpa == driver.used_gpa + 4 + 8 * 8
    assert driver.place(b"x", 16) >= driver.avail_event_gpa + 2


def test_a_direct_chain_takes_the_descriptors_it_is_told(driver: MockDriver) -> None:
    head = driver.make_chain([(1, 2, False), (3, 4, False), (5, 6, True)], indices=[7, 0, 3])
    assert head == 7
    assert driver.read_descriptor(7) == MockDescriptor(1, 2, DESC_F_NEXT, 0)
    assert driver.read_descriptor(0) == MockDescriptor(3, 4, DESC_F_NEXT, 3)
    assert driver.read(GPA + 16 * 3, 16) == struct.pack("<QIHH", 5, 6, DESC_F_WRITE, 0)


@pytest.mark.parametrize(("indirect", "direct_count"), [(True, 0), (0, 0), (1, 1), (2, 2)])
def test_an_indirect_table_holds_the_rest(
    driver: MockDriver, indirect: bool | int, direct_count: int
) -> None:
    pieces = [(0x100 + index, index + 1, index == 2) for index in range(3)]
    head = driver.make_chain(pieces, indirect=indirect, indices=range(4, 8))
    assert head == 4
    for position in range(direct_count):
        assert driver.read_descriptor(4 + position)[2:] == (DESC_F_NEXT, 5 + position)
    table_gpa, length, flags, _ = driver.read_descriptor(4 + direct_count)
    assert (length, flags) == (16 * (3 - direct_count), DESC_F_INDIRECT)
    table = [driver.read_descriptor(index, table_gpa=table_gpa) for index in range(3 - direct_count)]
    assert [entry.gpa for entry in table] == [gpa for gpa, _, _ in pieces[direct_count:]]
    assert [entry.flags for entry in table] == [DESC_F_NEXT] * (len(table) - 1) + [DESC_F_WRITE]
    assert [entry.next for entry in table] == [*range(1, len(table)), 0]


def test_indices_wrap_and_used_chains_are_found_once(driver: MockDriver) -> None:
    driver.start_at(0xFFFE)
    driver.offer(3, 4, 5)
    assert driver.avail_idx == 1
    assert [driver.read_avail(position) for position in (0xFFFE, 0xFFFF, 0)] == [3, 4, 5]
    for position, head in enumerate((5, 3)):
        driver.write_used(0xFFFE + position, head, 100 + head)
    assert driver.used() == []
    driver.used_idx = 0x10000
    assert driver.used() == [(5, 105), (3, 103)]
    assert driver.used() == []


def test_nothing_is_written_outside_the_memory(driver: MockDriver) -> None:
    for gpa in (GPA - 1, GPA + 8190):
        with pytest.raises(ValueError, match="outside"):
            driver.write(gpa, b"abc")
    with pytest.raises(ValueError, match="outside"):
        driver.reserve(8192)
