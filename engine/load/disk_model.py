"""What a disk should hold: a model of its blocks, and the bytes that tell each write from every other.

A block's content follows from its index and the version that was written there, so the model keeps one
number a block. It begins with both numbers, which name a block that is found in the wrong place or is stale.
"""

import random
import struct
from collections.abc import Iterable

_STAMP = struct.Struct("<QQ")
_PAD_BYTES = 1 << 20
_ZEROES = 0


class DiskModel:
    """The blocks of a disk that begins with zeroes. The same seed gives the same contents.

    A block may have several versions that are all right: the old one and zeroes after a discard, which does
    not say what is read afterwards, or the old one and the new one after a write that failed.
    """

    def __init__(self, num_blocks: int, block_bytes: int, seed: int = 0) -> None:
        self.num_blocks = num_blocks
        self.block_bytes = block_bytes
        self._versions: list[tuple[int, ...]] = [(_ZEROES,)] * num_blocks
        self._last_version = 0
        self._pad = random.Random(seed).randbytes(_PAD_BYTES + block_bytes)
        self._zeroes = bytes(block_bytes)

    def new_version(self) -> int:
        """A version that no block has had."""
        self._last_version += 1
        return self._last_version

    def content(self, block_index: int, version: int) -> bytes:
        """The bytes of a version of a block."""
        if version == _ZEROES:
            return self._zeroes
        # Two primes, so that neighbours and successors begin far from each other.
        start = (block_index * 2654435761 + version * 40503) % _PAD_BYTES
        stamp = _STAMP.pack(block_index, version)
        return stamp + self._pad[start : start + self.block_bytes - len(stamp)]

    def set_version(self, blocks: Iterable[int], version: int) -> None:
        """These blocks were written."""
        for block_index in blocks:
            self._versions[block_index] = (version,)

    def set_zeroes(self, blocks: Iterable[int]) -> None:
        """These blocks were made zero."""
        self.set_version(blocks, _ZEROES)

    def allow_version(self, blocks: Iterable[int], version: int) -> None:
        """These blocks may have been written."""
        for block_index in blocks:
            versions = self._versions[block_index]
            if version not in versions:
                self._versions[block_index] = (*versions, version)

    def allow_zeroes(self, blocks: Iterable[int]) -> None:
        """These blocks may have been made zero."""
        self.allow_version(blocks, _ZEROES)

    def faults(self, first_block: int, data: bytes) -> list[str]:
        """What is wrong with these bytes from `first_block` on, a line for each wrong block."""
        found = []
        for position, start in enumerate(range(0, len(data), self.block_bytes)):
            block_index = first_block + position
            block = data[start : start + self.block_bytes]
            versions = self._versions[block_index]
            if all(block != self.content(block_index, version) for version in versions):
                found.append(self._describe(block_index, block))
        return found

    def _describe(self, block_index: int, block: bytes) -> str:
        wanted = " or ".join(_name(version) for version in self._versions[block_index])
        text = f"block {block_index} (at {block_index * self.block_bytes}) should hold {wanted}"
        if block == self._zeroes:
            return f"{text} and holds zeroes"
        stamped_index, version = _STAMP.unpack_from(block)
        if stamped_index < self.num_blocks and 0 < version <= self._last_version:
            whole = block == self.content(stamped_index, version)
            return f"{text} and holds {'' if whole else 'part of '}version {version} of block {stamped_index}"
        return f"{text} and holds something else: {block[:16].hex()}"


def _name(version: int) -> str:
    return "zeroes" if version == _ZEROES else f"version {version}"
