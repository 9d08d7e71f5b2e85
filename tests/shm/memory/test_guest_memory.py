"""Guest memory against a plain model: what lies inside is found, and nothing else ever is."""

import mmap
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.memory.region import MemoryRegion, RegionError, check_overlap, check_region

FILE_BYTES = 1 << 20
UVA = 0x7F00_0000_0000
UNIT = 0x800  # half a page: regions begin and end inside pages
ADDRESS_END = 1 << 64
REGION_LIMIT = 1024


@pytest.fixture(scope="module")
def fd() -> Iterator[int]:
    descriptor = os.memfd_create("guest")
    os.ftruncate(descriptor, FILE_BYTES)
    yield descriptor
    os.close(descriptor)


def region_at(gpa: int, size_bytes: int, offset_bytes: int = 0) -> MemoryRegion:
    return MemoryRegion(gpa, size_bytes, (gpa + UVA) % ADDRESS_END, offset_bytes)


def model_ranges(
    regions: dict[int, MemoryRegion], gpa: int, length: int
) -> list[tuple[int, int, int]] | None:
    """Byte ranges the slow way; None where a byte of it is in no region."""
    pieces = []
    while length:
        for index, region in regions.items():
            if region.gpa <= gpa < region.gpa + region.size_bytes:
                part = min(length, region.gpa + region.size_bytes - gpa)
                pieces.append((index, gpa - region.gpa, part))
                gpa, length = gpa + part, length - part
                break
        else:
            return None
    return pieces


class MemoryMachine(RuleBasedStateMachine):
    """Regions come and go on a small map of half pages, at one of three places of the address space."""

    @initialize(base=st.sampled_from([0, 0x1_0000_0000, ADDRESS_END - 128 * UNIT]))
    def start(self, base: int) -> None:
        self.base = base
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, FILE_BYTES)
        self.memory = GuestMemory()
        self.current: dict[int, MemoryRegion] = {}
        self.waiting: set[int] = set()
        self.epoch = 0

    @rule(
        start=st.integers(0, 127),
        units=st.integers(1, 4),
        index=st.sampled_from([*range(40), 500, 1022, REGION_LIMIT - 1]),
    )
    def add(self, start: int, units: int, index: int) -> None:
        units = min(units, 128 - start)
        region = region_at(self.base + start * UNIT, units * UNIT, start * UNIT)
        try:
            check_overlap(region, self.current.values())
        except RegionError:
            return
        self.epoch += 1
        if index in self.current or index in self.waiting:
            with pytest.raises(RegionError, match="not free"):
                self.memory.add(index, region, self.fd, self.epoch)
            self.epoch -= 1
            return
        self.memory.add(index, region, self.fd, self.epoch)
        self.current[index] = region

    @precondition(lambda self: self.current)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.current)))
        self.memory.remove(index)
        del self.current[index]
        self.waiting.add(index)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.waiting)))
        self.memory.unmap(index)
        self.waiting.remove(index)

    @rule(start=st.integers(-2 * UNIT, 130 * UNIT), length=st.integers(0, 12 * UNIT))
    def translate(self, start: int, length: int) -> None:
        gpa = (self.base + start) % ADDRESS_END
        expected = model_ranges(self.current, gpa, length)
        if gpa + length > ADDRESS_END:
            expected = None
        if expected is None:
            with pytest.raises(ValueError, match="outside"):
                self.memory.ranges(gpa, length)
        else:
            assert self.memory.ranges(gpa, length) == expected

    @invariant()
    def knows_what_it_holds(self) -> None:
        if not hasattr(self, "memory"):
            return
        assert self.memory.epoch == self.epoch
        for index in range(REGION_LIMIT):
            assert self.memory.is_mapped(index) == (index in self.current or index in self.waiting)
        for index, region in self.current.items():
            last = region.gpa + region.size_bytes - 1
            assert self.memory.ranges(region.gpa, 1) == [(index, 0, 1)]
            assert self.memory.ranges(last, 1) == [(index, region.size_bytes - 1, 1)]

    def teardown(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 0x3000), min_size=32, max_size=60),
    gaps=st.lists(st.sampled_from([0, 0, 0, 1, 0x1000]), min_size=60, max_size=60),
    order=st.randoms(use_true_random=False),
    where=st.integers(0, 1 << 19),
    length=st.integers(0, 1 << 19),
)
def test_many_regions_of_odd_sizes(
    fd: int, sizes: list[int], gaps: list[int], order: random.Random, where: int, length: int
) -> None:
    regions, gpa = {}, 0x1000
    for index, (size, gap) in enumerate(zip(sizes, gaps, strict=False)):
        regions[index] = region_at(gpa, size, index)
        gpa += size + gap
    memory = GuestMemory()
    shuffled = list(regions)
    order.shuffle(shuffled)
    for index in shuffled:
        memory.add(index, regions[index], fd, 1)
    expected = model_ranges(regions, where, length)
    if expected is None:
        with pytest.raises(ValueError, match="outside"):
            memory.ranges(where, length)
    else:
        assert memory.ranges(where, length) == expected


def test_the_last_byte_of_the_address_space(fd: int) -> None:
    memory = GuestMemory()
    memory.add(5, region_at(ADDRESS_END - 0x1000, 0x1000), fd, 1)
    assert memory.ranges(ADDRESS_END - 1, 1) == [(5, 0xFFF, 1)]
    assert memory.ranges(ADDRESS_END - 0x1000, 0x1000) == [(5, 0, 0x1000)]
    with pytest.raises(ValueError, match="outside"):
        memory.ranges(ADDRESS_END - 1, 2)


@pytest.mark.parametrize("region_index", [REGION_LIMIT, 1 << 31])
def test_an_index_out_of_range(fd: int, region_index: int) -> None:
    memory = GuestMemory()
    with pytest.raises(RegionError, match="not free"):
        memory.add(region_index, region_at(0, 0x1000), fd, 1)
    memory.remove(region_index)
    memory.unmap(region_index)
    assert not memory.is_mapped(region_index)


def test_a_descriptor_that_cannot_be_mapped() -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(RegionError, match="cannot map"):
        GuestMemory().add(0, region_at(0, 0x1000), read_end, 1)
    os.close(read_end)
    os.close(write_end)


def test_everything_is_unmapped_in_the_end(fd: int) -> None:
    def mappings() -> int:
        with open("/proc/self/maps") as maps:
            return sum("memfd:guest" in line for line in maps)

    before = mappings()
    memory = GuestMemory()
    for index in range(REGION_LIMIT):
        memory.add(index, region_at(index << 20, mmap.PAGESIZE, 2 * index * mmap.PAGESIZE), fd, index)
    assert mappings() == before + REGION_LIMIT
    memory.remove(7)
    assert mappings() == before + REGION_LIMIT
    memory.unmap(7)
    assert mappings() == before + REGION_LIMIT - 1
    del memory
    assert mappings() == before


def test_a_region_is_checked_before_it_is_mapped(fd: int) -> None:
    check_region(region_at(0, FILE_BYTES), fd)
    for region, problem in [
        (region_at(0, 0), "empty"),
        (region_at(0, FILE_BYTES + 1), "ends at"),
        (region_at(0, 0x1000, FILE_BYTES), "ends at"),
        (MemoryRegion(ADDRESS_END - 1, 0x1000, 0, 0), "gpa plus size overflows"),
        (MemoryRegion(0, 0x1000, ADDRESS_END - 1, 0), "uva plus size overflows"),
        (MemoryRegion(0, 0x1000, 0, ADDRESS_END - 1), "mmap_offset_bytes plus size overflows"),
    ]:
        with pytest.raises(RegionError, match=problem):
            check_region(region, fd)
    with pytest.raises(RegionError, match="neither a file nor"):
        check_region(region_at(0, 0x1000), os.eventfd(0))
