"""In what pieces a drive's storage is best used (virtio 1.2, 5.2.4: the topology fields)."""

import os

import msgspec

from ringblk.shm.platform import block_device

SECTOR_BYTES = 512
"""The unit of requests and of a drive's size, whatever its blocks (virtio 1.2, 5.2.6)."""
MAX_LOGICAL_BLOCK_BYTES = 4096
MAX_PHYSICAL_BLOCK_BYTES = 32768
"""The largest blocks that a guest is told of."""
USUAL_PAGE_BYTES = 4096


def drive_size_fault(size_bytes: object) -> str | None:
    """What is wrong with a drive's size, or None: it is an int, whole sectors, and some."""
    if type(size_bytes) is int and 0 < size_bytes < 1 << 63 and size_bytes % SECTOR_BYTES == 0:
        return None
    return f"size_bytes is {size_bytes!r}, not a multiple of {SECTOR_BYTES} above 0"


class BlockTopology(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, as Linux means them of a block device.

    `logical_block_bytes` is the unit of addresses; a driver that sees another one finds no partitions. Writes
    of whole physical blocks need no reading. The first of these begins at `alignment_offset_bytes`. 0 of
    `optimal_io_bytes` is nothing known.
    """

    logical_block_bytes: int = SECTOR_BYTES
    physical_block_bytes: int = SECTOR_BYTES
    alignment_offset_bytes: int = 0
    minimum_io_bytes: int = SECTOR_BYTES
    optimal_io_bytes: int = 0
    discard_granularity_bytes: int = SECTOR_BYTES


def file_topology(fd: int, direct_alignment_bytes: int) -> BlockTopology:
    """A regular file's physical block is what direct I/O asks for, or a file system's block of up to a page.

    A larger block of the file system (NFS, ZFS) is only what is best: a guest's file system takes a physical
    block for what is written in one piece.
    """
    preferred_bytes = os.fstat(fd).st_blksize
    if preferred_bytes < SECTOR_BYTES or preferred_bytes & (preferred_bytes - 1):
        preferred_bytes = SECTOR_BYTES
    physical_bytes = max(SECTOR_BYTES, direct_alignment_bytes, min(preferred_bytes, USUAL_PAGE_BYTES))
    return BlockTopology(
        physical_block_bytes=physical_bytes,
        minimum_io_bytes=physical_bytes,
        optimal_io_bytes=preferred_bytes if preferred_bytes > physical_bytes else 0,
        discard_granularity_bytes=physical_bytes,
    )


def device_topology(fd: int) -> BlockTopology:
    """A block device's own. Raises `OSError`."""
    logical_bytes = block_device.logical_block_bytes(fd)
    physical_bytes = max(logical_bytes, block_device.physical_block_bytes(fd))
    return BlockTopology(
        logical_block_bytes=logical_bytes,
        physical_block_bytes=physical_bytes,
        alignment_offset_bytes=block_device.alignment_offset_bytes(fd),
        minimum_io_bytes=max(physical_bytes, block_device.minimum_io_bytes(fd)),
        optimal_io_bytes=block_device.optimal_io_bytes(fd),
        discard_granularity_bytes=block_device.discard_granularity_bytes(fd) or physical_bytes,
    )
