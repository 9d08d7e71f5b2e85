"""Sets of a drive's blocks, as large as a drive: for whoever looks at layers, not for requests."""

import re
from collections.abc import Iterator

EACH = 0b01010101
_SPREAD = [
    sum((byte >> step & 1) << 2 * step for step in range(8)).to_bytes(2, "little") for byte in range(256)
]
"""Each byte of a bitmap with a bit for each block, as two with two bits for each."""
_STRETCH = re.compile(rb"\x55+|[^\x00\x55]")


class BlockSet:
    """A set of blocks. A block has two bits, as in a layer's map, of which the lower one counts."""

    def __init__(self, bits: int = 0) -> None:
        self._bits = bits

    @staticmethod
    def of_range(first: int, end: int) -> "BlockSet":
        """The blocks [first, end)."""
        if end <= first:
            return BlockSet()
        each = int.from_bytes(bytes([EACH]) * (-(-(end - first) // 4)), "little")
        return BlockSet((each & ((1 << 2 * (end - first)) - 1)) << 2 * first)

    @staticmethod
    def of_bitmap(bitmap: bytes) -> "BlockSet":
        """The blocks whose bits are set in a bitmap of a bit for each."""
        return BlockSet(int.from_bytes(b"".join([_SPREAD[byte] for byte in bitmap]), "little"))

    def __or__(self, other: "BlockSet") -> "BlockSet":
        return BlockSet(self._bits | other._bits)

    def __and__(self, other: "BlockSet") -> "BlockSet":
        return BlockSet(self._bits & other._bits)

    def __sub__(self, other: "BlockSet") -> "BlockSet":
        return BlockSet(self._bits & ~other._bits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockSet) and self._bits == other._bits

    def __hash__(self) -> int:
        return hash(self._bits)

    def __len__(self) -> int:
        return self._bits.bit_count()

    def __bool__(self) -> bool:
        return bool(self._bits)

    def to_int(self) -> int:
        """Its bits, two for each block."""
        return self._bits

    def runs(self) -> Iterator[tuple[int, int]]:
        """The stretches of blocks that it has, [first, end), in order."""
        first = end = 0
        for begin, until in self._pieces():
            if begin != end:
                if first < end:
                    yield first, end
                first = begin
            end = until
        if first < end:
            yield first, end

    def _pieces(self) -> Iterator[tuple[int, int]]:
        content = self._bits.to_bytes(-(-self._bits.bit_length() // 8), "little")
        for found in _STRETCH.finditer(content):
            block = found.start() * 4
            if content[found.start()] == EACH:
                yield block, found.end() * 4
                continue
            for step in range(4):
                if content[found.start()] >> 2 * step & 1:
                    yield block + step, block + step + 1


class BlockMarks:
    """A set in the making: as quick for the last of many stretches as for the first."""

    def __init__(self, block_count: int) -> None:
        self._bytes = bytearray(-(-block_count // 4))

    def add(self, first: int, end: int) -> None:
        """Take the blocks [first, end) in."""
        whole_first, whole_end = -(-first // 4), end // 4
        if whole_first < whole_end:
            self._bytes[whole_first:whole_end] = bytes([EACH]) * (whole_end - whole_first)
        edges = {*range(first, min(end, whole_first * 4)), *range(max(first, whole_end * 4), end)}
        for block in edges:
            self._bytes[block // 4] |= 1 << 2 * (block % 4)

    def result(self) -> BlockSet:
        """All that were taken in."""
        return BlockSet(int.from_bytes(self._bytes, "little"))
