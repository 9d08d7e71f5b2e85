"""Where a request's bytes lie in guest memory, and how descriptors name them: cut anywhere, with gaps."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.rigs.mock_driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MockDriver

FILLING = 0xA5
"""What the device finds where nobody has asked it to write, and must leave."""
DESCRIPTOR_BYTES = 16


@dataclass(frozen=True)
class Shape:
    """How a request is cut. A cut that comes twice makes an empty descriptor; one too far makes none."""

    cuts: tuple[int, ...] = ()
    direct_count: int | None = None
    """Descriptors in front of an indirect table (None: there is no table, all are direct)."""
    gap_bytes: int = 0
    """Between a descriptor's bytes and the next one's."""


@dataclass(frozen=True)
class Piece:
    """What one descriptor names."""

    gpa: int
    length_bytes: int
    is_writable: bool


@dataclass
class Layout:
    """A request in guest memory: written there, not yet offered."""

    pieces: list[Piece]
    direct_count: int
    table_gpa: int | None
    start_gpa: int
    snapshot: bytearray = field(default_factory=bytearray)
    """The memory from `start_gpa` on, as it is when the request is offered."""

    @property
    def table_bytes(self) -> int:
        """The indirect table's length."""
        return DESCRIPTOR_BYTES * (len(self.pieces) - self.direct_count)

    @property
    def entry_count(self) -> int:
        """Descriptors that it takes in the queue's own table."""
        return self.direct_count + (self.table_gpa is not None)

    @property
    def writable(self) -> list[Piece]:
        """Where the device may write, in order."""
        return [piece for piece in self.pieces if piece.is_writable]

    def read_writable(self, driver: MockDriver) -> bytes:
        """What the writable pieces hold now."""
        return b"".join(driver.read(piece.gpa, piece.length_bytes) for piece in self.writable)

    def note_written(self, data: bytes) -> None:
        """Expect these bytes in the writable pieces."""
        start = 0
        for piece in self.writable:
            place = piece.gpa - self.start_gpa
            self.snapshot[place : place + piece.length_bytes] = data[start : start + piece.length_bytes]
            start += piece.length_bytes


def lay_out(
    driver: MockDriver, slab_gpa: int, slab_bytes: int, shape: Shape, readable: bytes, writable_bytes: int
) -> Layout:
    """Write a request's bytes into a slab of guest memory; the device's part is filled with ones."""
    driver.fill(slab_gpa, slab_bytes, FILLING)
    place = slab_gpa + shape.gap_bytes
    pieces = []
    for length_bytes, is_writable in _cut(len(readable), writable_bytes, shape.cuts):
        pieces.append(Piece(place, length_bytes, is_writable))
        if is_writable:
            driver.fill(place, length_bytes, 0xFF)
        else:
            driver.write(place, readable[:length_bytes])
            readable = readable[length_bytes:]
        place += length_bytes + shape.gap_bytes
    direct_count = len(pieces) if shape.direct_count is None else min(shape.direct_count, len(pieces) - 1)
    return Layout(pieces, direct_count, None if shape.direct_count is None else place, slab_gpa)


def write_descriptors(driver: MockDriver, layout: Layout, indices: Sequence[int]) -> None:
    """Write the chain, with these entries of the queue's table, and the table it may end with."""
    entries = [
        (piece.gpa, piece.length_bytes, DESC_F_WRITE if piece.is_writable else 0) for piece in layout.pieces
    ]
    direct = entries[: layout.direct_count]
    if layout.table_gpa is not None:
        table = entries[layout.direct_count :]
        _link(driver, table, range(len(table)), layout.table_gpa)
        direct.append((layout.table_gpa, layout.table_bytes, DESC_F_INDIRECT))
    _link(driver, direct, indices, None)


def _link(
    driver: MockDriver,
    entries: Sequence[tuple[int, int, int]],
    indices: Sequence[int],
    table_gpa: int | None,
) -> None:
    last = len(entries) - 1
    for place, (gpa, length_bytes, flags) in enumerate(entries):
        link = DESC_F_NEXT if place < last else 0
        following = indices[place + 1] if place < last else 0
        driver.descriptor(indices[place], gpa, length_bytes, flags | link, following, table_gpa=table_gpa)


def _cut(readable_bytes: int, writable_bytes: int, cuts: Sequence[int]) -> list[tuple[int, bool]]:
    """(length, is_writable) of each descriptor."""
    parts = []
    start = 0
    for size_bytes, is_writable in ((readable_bytes, False), (writable_bytes, True)):
        inner = sorted(cut - start for cut in cuts if start < cut < start + size_bytes)
        if size_bytes:
            edges = [0, *inner, size_bytes]
            parts += [(high - low, is_writable) for low, high in itertools.pairwise(edges)]
        start += size_bytes
    return parts
