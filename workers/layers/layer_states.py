"""What a layer has of its drive's blocks, read from its files without a change to them."""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator

import msgspec

from ringblk.workers.layers.block_set import EACH, BlockSet
from ringblk.workers.layers.folder import LIVE, MAP, exists
from ringblk.workers.layers.form import (
    JOURNAL_SLOTS,
    UNIT_BYTES,
    UNIT_WORDS,
    LayerDamaged,
    LiveLayout,
    MapLayout,
    Superblock,
)
from ringblk.workers.layers.live import counts_in_this_boot

_WORD_BYTES = 8
_UNIT_HEAD = struct.Struct("<II")
_RECORD_HEAD = struct.Struct("<II8s")
_CHANGE = struct.Struct("<IQ")
_RECORD_CHANGES = 41
_PAGE_BYTES = 4096
_RECORD_FILL_BYTES = 4
_READ_BYTES = 1 << 20


class LayerStates(msgspec.Struct, frozen=True):
    """Which blocks a layer has: in its data, or as zeroes. All others are those of what it lies on."""

    present: BlockSet
    zero: BlockSet

    @property
    def own(self) -> BlockSet:
        """Both."""
        return self.present | self.zero

    def words(self, size_bytes: int) -> bytes:
        """The words of a map that has these, as long as that."""
        present = self.present.to_int()
        return (present | present << 1 | self.zero.to_int()).to_bytes(size_bytes, "little")

    @staticmethod
    def of_words(words: bytes) -> "LayerStates":
        """Of a map's words."""
        both = int.from_bytes(words, "little")
        low = both & int.from_bytes(bytes([EACH]) * len(words), "little")
        present = low & both >> 1
        return LayerStates(BlockSet(present), BlockSet(low & ~present))


def read_states(layer_fd: int, superblock: Superblock, *, is_settled: bool) -> LayerStates:
    """The states of the layer whose folder is open, which may be in use. Raises `LayerDamaged`, `OSError`.

    Of a layer that is not settled the live map counts, where it is of this boot; else the map and its
    journal.
    """
    live = None if is_settled else live_states(layer_fd, superblock)
    if live is not None:
        return live
    map_fd = os.open(MAP, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
    try:
        words, damaged = read_map(map_fd, superblock)
        if damaged:  # or an engine has written to a unit at this moment: it merges layers
            words, damaged = read_map(map_fd, superblock)
        if damaged:
            raise LayerDamaged(f"unit {damaged[0]} of its map is damaged: the checksum is wrong")
        if not is_settled:
            with_changes(words, journal_changes(map_fd, superblock))
        return LayerStates.of_words(bytes(words))
    finally:
        os.close(map_fd)


def live_states(layer_fd: int, superblock: Superblock) -> LayerStates | None:
    """What the live map of a layer says; None where none counts. Raises `OSError`."""
    if not exists(LIVE, layer_fd):
        return None
    live_fd = os.open(LIVE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
    try:
        if not counts_in_this_boot(live_fd, superblock):
            return None
        return LayerStates.of_words(_live_words(live_fd, superblock))
    finally:
        os.close(live_fd)


def read_map(map_fd: int, superblock: Superblock) -> tuple[bytearray, list[int]]:
    """The words of a map, and the units of it that are damaged. Raises `OSError`."""
    layout = MapLayout.of(superblock.size_bytes)
    words = bytearray(layout.unit_count * UNIT_WORDS * _WORD_BYTES)
    damaged = []
    for offset, piece in _data_pieces(map_fd, layout.map_offset, layout.file_bytes):
        first = (offset - layout.map_offset) // UNIT_BYTES
        for place in range(0, len(piece), UNIT_BYTES):
            unit, index = piece[place : place + UNIT_BYTES], first + place // UNIT_BYTES
            if unit.count(0) == UNIT_BYTES:
                continue
            if _UNIT_HEAD.unpack_from(unit) != (zlib.crc32(unit[4:]), index):
                damaged.append(index)
                continue
            start = index * UNIT_WORDS * _WORD_BYTES
            words[start : start + UNIT_WORDS * _WORD_BYTES] = unit[_UNIT_HEAD.size :]
    return words, damaged


def journal_changes(map_fd: int, superblock: Superblock) -> Iterator[tuple[int, int]]:
    """The words and bits of all sound records of a map's journal. Raises `LayerDamaged`, `OSError`."""
    layout = MapLayout.of(superblock.size_bytes)
    journal = os.pread(map_fd, JOURNAL_SLOTS * UNIT_BYTES, layout.journal_offset)
    word_count = layout.unit_count * UNIT_WORDS
    for place in range(0, len(journal), UNIT_BYTES):
        record = journal[place : place + UNIT_BYTES]
        checksum, count, tag = _RECORD_HEAD.unpack_from(record)
        is_ours = tag == superblock.layer_id[: len(tag)] and count <= _RECORD_CHANGES
        if not is_ours or zlib.crc32(record[4:]) != checksum:
            continue  # never written, or torn
        for word, bits in _CHANGE.iter_unpack(record[_RECORD_HEAD.size : -_RECORD_FILL_BYTES]):
            if count == 0:
                break
            count -= 1
            if word >= word_count:
                raise LayerDamaged("a record of its journal names blocks beyond its end")
            yield word, bits


def _live_words(live_fd: int, superblock: Superblock) -> bytes:
    layout = LiveLayout.of(superblock.size_bytes)
    words = bytearray(layout.page_count * _PAGE_BYTES)
    for offset, piece in _data_pieces(live_fd, layout.words_offset, layout.file_bytes):
        start = offset - layout.words_offset
        words[start : start + len(piece)] = piece
    return bytes(words)


def with_changes(words: bytearray, changes: Iterable[tuple[int, int]]) -> None:
    """Set the bits of changes in the words of a map."""
    for word, bits in changes:
        place = slice(word * _WORD_BYTES, (word + 1) * _WORD_BYTES)
        words[place] = (int.from_bytes(words[place], "little") | bits).to_bytes(_WORD_BYTES, "little")


def _data_pieces(fd: int, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
    """What of a range of a file is no hole, in whole sectors."""
    begin = offset
    while offset < end:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # a hole up to the end
            return
        offset = begin + (offset - begin) // UNIT_BYTES * UNIT_BYTES
        until = min(end, os.lseek(fd, offset, os.SEEK_HOLE)) if offset < end else end
        until = min(end, begin + -(-(until - begin) // UNIT_BYTES) * UNIT_BYTES)
        while offset < until:
            piece = os.pread(fd, min(_READ_BYTES, until - offset), offset)
            if not piece:
                return
            yield offset, piece
            offset += len(piece)
