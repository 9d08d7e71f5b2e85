"""The form of a layer on the disk: docs/layers.md has it byte by byte."""

import struct
import zlib

import msgspec

VERSION = 1
BLOCK_BYTES = 4096
SUPERBLOCK_BYTES = 4096
UNIT_BYTES = 512
"""The map and its journal consist of these, each with a checksum: a disk writes it whole or not at all."""
UNIT_WORDS = 63
"""Words of the map in a unit of it."""
WORD_BLOCKS = 32
"""Blocks in a word of the map."""
JOURNAL_SLOTS = 1024
MAX_PATH_BYTES = SUPERBLOCK_BYTES - 128

MAP_MAGIC = b"RBLAYER\n"
LIVE_MAGIC = b"RBLIVE\n\0"
_PAGE_BYTES = 4096
_SECTOR_BYTES = 512
_SUPERBLOCK = struct.Struct("<8sII16sQIIQQQIIQQq16s8x")
_CHECKSUM_OFFSET = 12

assert _SUPERBLOCK.size == SUPERBLOCK_BYTES - MAX_PATH_BYTES


class LayerDamaged(Exception):  # noqa: N818
    """What stands there is no layer, or not a whole one. The message says what is wrong with it."""


class BaseIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The base that a layer was made on, as it was then."""

    kind: int
    """A file, a block device, of which the size alone counts, a layer, what is fetched (`FILE_BASE`...)."""
    path: bytes
    """Where it was, for people."""
    size_bytes: int
    inode: int = 0
    modified_ns: int = 0
    layer_id: bytes = bytes(16)
    """Of a layer, which is told by that; `path` is its overlay's folder, empty where that is this layer's.

    Of a base that is fetched, what tells its content; `path` is the folder of what was fetched.
    """


FILE_BASE, DEVICE_BASE, LAYER_BASE, SOURCE_BASE = 1, 2, 3, 4


class Superblock(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at the beginning of a layer's map."""

    layer_id: bytes
    """16 random bytes."""
    size_bytes: int
    """Of the drive."""
    base: BaseIdentity

    def encode(self) -> bytes:
        """As it stands on the disk. Raises `ValueError` for a path that is too long."""
        if len(self.base.path) > MAX_PATH_BYTES:
            raise ValueError(f"a path of more than {MAX_PATH_BYTES} bytes")
        layout = MapLayout.of(self.size_bytes)
        fields = (MAP_MAGIC, VERSION, 0, self.layer_id, self.size_bytes, BLOCK_BYTES, JOURNAL_SLOTS)
        places = (layout.journal_offset, layout.map_offset, layout.unit_count)
        base = (self.base.kind, len(self.base.path), self.base.size_bytes, self.base.inode)
        head = _SUPERBLOCK.pack(*fields, *places, *base, self.base.modified_ns, self.base.layer_id)
        block = (head + self.base.path).ljust(SUPERBLOCK_BYTES, b"\0")
        return _with_checksum(block, zlib.crc32(block))

    @staticmethod
    def decode(block: bytes) -> "Superblock":
        """What a superblock says. Raises `LayerDamaged`."""
        if len(block) < SUPERBLOCK_BYTES or not block.startswith(MAP_MAGIC):
            raise LayerDamaged("is not the map of a layer")
        fields = _SUPERBLOCK.unpack_from(block)
        _, version, checksum, layer_id, size_bytes, block_bytes, slot_count, *places = fields[:10]
        if version != VERSION:
            raise LayerDamaged(f"has version {version}, and this program knows {VERSION}")
        if zlib.crc32(_with_checksum(block, 0)) != checksum:
            raise LayerDamaged("its superblock is damaged: the checksum is wrong")
        if size_bytes == 0 or size_bytes % _SECTOR_BYTES:
            raise LayerDamaged(f"its superblock says {size_bytes} bytes, which is no drive")
        layout = MapLayout.of(size_bytes)
        known = (BLOCK_BYTES, JOURNAL_SLOTS, layout.journal_offset, layout.map_offset, layout.unit_count)
        if (block_bytes, slot_count, *places) != known:
            raise LayerDamaged("its superblock has sizes that this program does not know")
        kind, path_bytes, base_bytes, inode, modified_ns, below = fields[10:]
        base = BaseIdentity(
            kind=kind,
            path=block[_SUPERBLOCK.size : _SUPERBLOCK.size + path_bytes],
            size_bytes=base_bytes,
            inode=inode,
            modified_ns=modified_ns,
            layer_id=below,
        )
        return Superblock(layer_id=layer_id, size_bytes=size_bytes, base=base)


def _with_checksum(block: bytes, checksum: int) -> bytes:
    return block[:_CHECKSUM_OFFSET] + checksum.to_bytes(4, "little") + block[_CHECKSUM_OFFSET + 4 :]


class MapLayout(msgspec.Struct, frozen=True):
    """Where things are in a layer's `map` file."""

    unit_count: int
    journal_offset: int = SUPERBLOCK_BYTES
    map_offset: int = SUPERBLOCK_BYTES + JOURNAL_SLOTS * UNIT_BYTES

    @staticmethod
    def of(size_bytes: int) -> "MapLayout":
        """For a drive of this size."""
        return MapLayout(_divided(_divided(block_count(size_bytes), WORD_BLOCKS), UNIT_WORDS))

    @property
    def file_bytes(self) -> int:
        """How large the file is."""
        return self.map_offset + self.unit_count * UNIT_BYTES


class LiveLayout(msgspec.Struct, frozen=True):
    """Where things are in a layer's `live` file."""

    block_count: int
    page_count: int
    touched_offset: int
    unsaved_offset: int
    taken_offset: int
    words_offset: int

    @staticmethod
    def of(size_bytes: int) -> "LiveLayout":
        """For a drive of this size."""
        page_count = _divided(_divided(block_count(size_bytes), WORD_BLOCKS) * 8, _PAGE_BYTES)
        bitmap_bytes = _divided(page_count, 512) * 64
        touched, unsaved, taken = (_PAGE_BYTES + index * bitmap_bytes for index in range(3))
        words = _divided(taken + bitmap_bytes, _PAGE_BYTES) * _PAGE_BYTES
        return LiveLayout(block_count(size_bytes), page_count, touched, unsaved, taken, words)

    @property
    def file_bytes(self) -> int:
        """How large the file is."""
        return self.words_offset + self.page_count * _PAGE_BYTES


def block_count(size_bytes: int) -> int:
    """Blocks of a drive; the last may be one in part."""
    return _divided(size_bytes, BLOCK_BYTES)


def _divided(count: int, by: int) -> int:
    """Rounded up."""
    return -(-count // by)
