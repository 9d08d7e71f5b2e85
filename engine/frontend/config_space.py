"""A block device's config space as its driver reads it (virtio 1.2, 5.2.4)."""

import struct

import msgspec

_LAYOUT = struct.Struct("<QIIHBBIBBHIBxHIIIIIB3x")
CONFIG_BYTES = _LAYOUT.size
"""Up to and with WRITE_ZEROES's fields: what every back end has. Newer fields come after them."""
WRITEBACK_OFFSET = 32


class DiskConfig(msgspec.Struct, frozen=True):
    """The fields as the device has them; which ones mean anything, the negotiated features say.

    Capacity, discard alignment and limits are in sectors of 512 bytes; `min_io_size` and `opt_io_size` are
    in blocks of `blk_size` bytes.
    """

    capacity: int
    size_max: int
    seg_max: int
    cylinders: int
    heads: int
    sectors: int
    blk_size: int
    physical_block_exp: int
    alignment_offset: int
    min_io_size: int
    opt_io_size: int
    writeback: int
    num_queues: int
    max_discard_sectors: int
    max_discard_seg: int
    discard_sector_alignment: int
    max_write_zeroes_sectors: int
    max_write_zeroes_seg: int
    write_zeroes_may_unmap: int

    @classmethod
    def decode(cls, data: bytes) -> "DiskConfig":
        """Read CONFIG_BYTES bytes."""
        return cls(*_LAYOUT.unpack(data))
