"""The tests' driver: writes rings and descriptors of any shape, correct or corrupt, into guest memory.

Plain Python and struct, with nothing taken from the product's own driver
(ringblk.shm.queues.driver_virtqueue), so that the two sides of a ring are never checked against
themselves. It remembers nothing of what the device does except how much of the used ring has been read.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1


class MockDescriptor(NamedTuple):
    """A descriptor table entry (virtio 1.2, 2.7.5)."""

    gpa: int
    length: int
    flags: int
    next: int


class MockDriver:
    """A driver of one split virtqueue whose rings begin at `rings_gpa` in `memory`.

    `memory` is writable and its first byte has address `gpa_base`. The rings are followed by free space
    that place() and reserve() hand out and never take back, except all of it at once by forget_places().
    """

    def __init__(
        self,
        memory: memoryview,
        gpa_base: int,
        queue_size: int,
        *,
        event_idx: bool = False,
        rings_gpa: int | None = None,
    ) -> None:
        self.memory = memory
        self.gpa_base = gpa_base
        self.queue_size = queue_size
        self.event_idx = event_idx
        self.desc_gpa = gpa_base if rings_gpa is None else rings_gpa
        self.avail_gpa = self.desc_gpa + 16 * queue_size
        self.used_gpa = _align_up(self.avail_gpa + 4 + 2 * queue_size + 2, 4)
        self.used_event_gpa = self.avail_gpa + 4 + 2 * queue_size
        self.avail_event_gpa = self.used_gpa + 4 + 8 * queue_size
        self.places_gpa = _align_up(self.avail_event_gpa + 2, 16)
        self.next_place = self.places_gpa
        self.next_used = 0
        self.fill(self.desc_gpa, self.places_gpa - self.desc_gpa, 0)

    # Guest memory.

    def read(self, gpa: int, length: int) -> bytes:
        return bytes(self.memory[self._offset(gpa, length) :][:length])

    def write(self, gpa: int, data: bytes) -> None:
        offset = self._offset(gpa, len(data))
        self.memory[offset : offset + len(data)] = data

    def fill(self, gpa: int, length: int, value: int) -> None:
        self.write(gpa, bytes([value]) * length)

    def reserve(self, length: int, align: int = 1) -> int:
        """Address of `length` bytes that nothing else uses."""
        gpa = _align_up(self.next_place, align)
        self._offset(gpa, length)
        self.next_place = gpa + length
        return gpa

    def place(self, data: bytes, align: int = 1) -> int:
        """Copy data into free guest memory; its address."""
        gpa = self.reserve(len(data), align)
        self.write(gpa, data)
        return gpa

    def forget_places(self) -> None:
        """Make all the free space free again. For when nothing is in flight."""
        self.next_place = self.places_gpa

    # Descriptors.

    def descriptor(
        self,
        index: int,
        gpa: int,
        length: int,
        flags: int = 0,
        next: int = 0,
        *,
        table_gpa: int | None = None,
    ) -> None:
        """Write one entry of the descriptor table, or of an indirect table at `table_gpa`."""
        table = self.desc_gpa if table_gpa is None else table_gpa
        self.write(table + 16 * index, struct.pack("<QIHH", gpa, length, flags, next))

    def read_descriptor(self, index: int, *, table_gpa: int | None = None) -> MockDescriptor:
        table = self.desc_gpa if table_gpa is None else table_gpa
        return MockDescriptor(*struct.unpack("<QIHH", self.read(table + 16 * index, 16)))

    def make_chain(
        self,
        pieces: Sequence[tuple[int, int, bool]],
        *,
        indirect: bool | int = False,
        indices: Iterable[int] | None = None,
    ) -> int:
        """Write a chain of (gpa, length, writable) pieces and return its head index, not yet offered.

        `indices` are the descriptors to use, in order, from 0 on when not given. `indirect=True` puts all
        pieces into an indirect table; a number puts all but that many in front of it (virtio allows a
        table at the end of direct descriptors).
        """
        direct_count = len(pieces) if indirect is False else int(indirect) if indirect is not True else 0
        entries = _entries(pieces[:direct_count])
        if indirect is not False:
            table_pieces = pieces[direct_count:]
            entries.append((self.make_table(table_pieces), 16 * len(table_pieces), DESC_F_INDIRECT))
        used = list(range(len(entries)) if indices is None else indices)[: len(entries)]
        self._link(entries, used, None)
        return used[0]

    def make_table(self, pieces: Sequence[tuple[int, int, bool]]) -> int:
        """Write an indirect table of (gpa, length, writable) pieces into free memory; its address."""
        table_gpa = self.reserve(16 * len(pieces), 16)
        self._link(_entries(pieces), list(range(len(pieces))), table_gpa)
        return table_gpa

    def _link(self, entries: list[tuple[int, int, int]], indices: list[int], table_gpa: int | None) -> None:
        for position, (gpa, length, flags) in enumerate(entries):
            last = position + 1 == len(entries)
            next_index = 0 if last else indices[position + 1]
            link = 0 if last else DESC_F_NEXT
            self.descriptor(indices[position], gpa, length, flags | link, next_index, table_gpa=table_gpa)

    # The avail ring: the driver's.

    @property
    def avail_idx(self) -> int:
        return self._load16(self.avail_gpa + 2)

    @avail_idx.setter
    def avail_idx(self, idx: int) -> None:
        self._store16(self.avail_gpa + 2, idx)

    def write_avail(self, position: int, head: int) -> None:
        """Write one entry of the avail ring (position modulo the queue size) and leave the index alone."""
        self._store16(self.avail_gpa + 4 + 2 * (position % self.queue_size), head)

    def read_avail(self, position: int) -> int:
        return self._load16(self.avail_gpa + 4 + 2 * (position % self.queue_size))

    def offer(self, *heads: int) -> None:
        """Make chains available, all of them with one move of the index."""
        idx = self.avail_idx
        for position, head in enumerate(heads):
            self.write_avail(idx + position, head)
        self.avail_idx = idx + len(heads)

    @property
    def avail_flags(self) -> int:
        return self._load16(self.avail_gpa)

    @avail_flags.setter
    def avail_flags(self, flags: int) -> None:
        self._store16(self.avail_gpa, flags)

    @property
    def used_event(self) -> int:
        return self._load16(self.used_event_gpa)

    @used_event.setter
    def used_event(self, idx: int) -> None:
        self._store16(self.used_event_gpa, idx)

    # The used ring: the device's. The setters are for tests that play the device, or corrupt it.

    @property
    def used_idx(self) -> int:
        return self._load16(self.used_gpa + 2)

    @used_idx.setter
    def used_idx(self, idx: int) -> None:
        self._store16(self.used_gpa + 2, idx)

    def read_used(self, position: int) -> tuple[int, int]:
        head, length = struct.unpack("<II", self.read(self._used_element_gpa(position), 8))
        return head, length

    def write_used(self, position: int, head: int, length: int) -> None:
        self.write(self._used_element_gpa(position), struct.pack("<II", head, length))

    def used(self) -> list[tuple[int, int]]:
        """(head index, used length) of the chains used since the last call."""
        count = (self.used_idx - self.next_used) & 0xFFFF
        elements = [self.read_used(self.next_used + position) for position in range(count)]
        self.next_used = (self.next_used + count) & 0xFFFF
        return elements

    @property
    def used_flags(self) -> int:
        return self._load16(self.used_gpa)

    @used_flags.setter
    def used_flags(self, flags: int) -> None:
        self._store16(self.used_gpa, flags)

    @property
    def avail_event(self) -> int:
        return self._load16(self.avail_event_gpa)

    @avail_event.setter
    def avail_event(self, idx: int) -> None:
        self._store16(self.avail_event_gpa, idx)

    def start_at(self, idx: int) -> None:
        """Let both rings begin at index `idx`, as after that many requests. Before anything is offered."""
        self.avail_idx = self.used_idx = idx
        self.next_used = idx & 0xFFFF
        self.used_event = self.avail_event = idx

    # The parts.

    def _used_element_gpa(self, position: int) -> int:
        return self.used_gpa + 4 + 8 * (position % self.queue_size)

    def _offset(self, gpa: int, length: int) -> int:
        offset = gpa - self.gpa_base
        if offset < 0 or offset + length > len(self.memory):
            raise ValueError(f"{length} bytes at {gpa:#x} lie outside the guest memory of this driver")
        return offset

    def _load16(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 2), "little")

    def _store16(self, gpa: int, value: int) -> None:
        self.write(gpa, (value & 0xFFFF).to_bytes(2, "little"))


def _entries(pieces: Sequence[tuple[int, int, bool]]) -> list[tuple[int, int, int]]:
    return [(gpa, length, DESC_F_WRITE if writable else 0) for gpa, length, writable in pieces]


def _align_up(value: int, align: int) -> int:
    return -(-value // align) * align
