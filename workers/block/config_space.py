"""A block device's config space, struct virtio_blk_config (virtio 1.2, 5.2.4)."""

import struct

import msgspec.structs

_LAYOUT = struct.Struct("<QIIHBBIBBHIBxHIIIIIB3x")
CONFIG_BYTES = _LAYOUT.size
"""Up to and with WRITE_ZEROES's fields: what every back end has. Newer fields come after them."""
WRITEBACK_OFFSET_BYTES = 32
"""Of the one field that a driver writes."""


class BlockConfigSpace(msgspec.Struct, frozen=True):
    """The fields as the device has them; which ones mean anything, the negotiated features say.

    Capacity, discard alignment and limits are in sectors of 512 bytes; `min_io_size` and `opt_io_size` are
    in blocks of `blk_size` bytes.
    """

    capacity: int = 0
    size_max: int = 0
    seg_max: int = 0
    cylinders: int = 0
    heads: int = 0
    sectors: int = 0
    blk_size: int = 0
    physical_block_exp: int = 0
    alignment_offset: int = 0
    min_io_size: int = 0
    opt_io_size: int = 0
    writeback: int = 0
    num_queues: int = 0
    max_discard_sectors: int = 0
    max_discard_seg: int = 0
    discard_sector_alignment: int = 0
    max_write_zeroes_sectors: int = 0
    max_write_zeroes_seg: int = 0
    write_zeroes_may_unmap: int = 0

    @classmethod
    def decode(cls, data: bytes) -> "BlockConfigSpace":
        """Read CONFIG_BYTES bytes."""
        return cls(*_LAYOUT.unpack(data))

    def encode(self) -> bytes:
        """CONFIG_BYTES bytes."""
        return _LAYOUT.pack(*msgspec.structs.astuple(self))
