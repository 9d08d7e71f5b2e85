"""A layer that is written as a whole, before any chain names it: nothing of it is there, or all."""

import os
import struct
import zlib

from ringblk.workers.layers.block_set import BlockMarks
from ringblk.workers.layers.chain_form import ChainLayer
from ringblk.workers.layers.folder import DATA, MAP, make_layer
from ringblk.workers.layers.form import (
    BLOCK_BYTES,
    UNIT_BYTES,
    UNIT_WORDS,
    MapLayout,
    Superblock,
    block_count,
)
from ringblk.workers.layers.layer_states import LayerStates
from ringblk.workers.layers.overlay_folder import opened_layer

_FOLDER_MODE = 0o700
_WORDS_BYTES = UNIT_WORDS * 8


class LayerWriter:
    """Makes a layer in an overlay's folder, which is open. A block is given once. Raises `OSError`."""

    def __init__(self, folder_fd: int, layer: ChainLayer, superblock: Superblock) -> None:
        self._folder_fd = folder_fd
        self.layer = layer
        self._superblock = superblock
        count = block_count(superblock.size_bytes)
        self._present, self._zero = BlockMarks(count), BlockMarks(count)
        os.mkdir(layer.folder, _FOLDER_MODE, dir_fd=folder_fd)
        with opened_layer(folder_fd, layer) as layer_fd:
            make_layer(layer_fd, superblock)
            self._data_fd = os.open(DATA, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Have data at an offset, both whole blocks but for the drive's end."""
        rest, at = memoryview(data), offset
        while rest:
            count = os.pwrite(self._data_fd, rest, at)
            rest, at = rest[count:], at + count
        self._present.add(*_blocks(offset, len(data)))

    def write_zeroes(self, offset: int, length: int) -> None:
        """Have zeroes there, as a state of their blocks."""
        self._zero.add(*_blocks(offset, length))

    def settle(self) -> None:
        """Bring all of it to the disk: a chain may name it then, as settled."""
        os.fsync(self._data_fd)
        with opened_layer(self._folder_fd, self.layer) as layer_fd:
            map_fd = os.open(MAP, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
            try:
                present = self._present.result()
                states = LayerStates(present, self._zero.result() - present)
                write_map(map_fd, self._superblock, states)
                os.fsync(map_fd)
            finally:
                os.close(map_fd)
            os.fsync(layer_fd)
        os.fsync(self._folder_fd)

    def close(self) -> None:
        """Close it."""
        os.close(self._data_fd)


def write_map(map_fd: int, superblock: Superblock, states: LayerStates) -> None:
    """Write the units of a map that have anything; the others were never written. Raises `OSError`."""
    layout = MapLayout.of(superblock.size_bytes)
    words = states.words(layout.unit_count * _WORDS_BYTES)
    for index in range(layout.unit_count):
        piece = words[index * _WORDS_BYTES : (index + 1) * _WORDS_BYTES]
        if piece.count(0) == _WORDS_BYTES:
            continue
        content = struct.pack("<I", index) + piece
        unit = struct.pack("<I", zlib.crc32(content)) + content
        os.pwrite(map_fd, unit, layout.map_offset + index * UNIT_BYTES)


def _blocks(offset: int, length: int) -> tuple[int, int]:
    return offset // BLOCK_BYTES, block_count(offset + length)
