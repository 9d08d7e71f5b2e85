"""Where the file of a qcow or qcow2 image must reach to, by its own tables (QEMU, docs/interop/qcow2.rst).

QEMU reads what lies beyond the end of a file as zeroes, tables included: those of an image that was cut off
say that nothing is there. `qemu-img map` tells where data lie, but not the compressed ones.
"""

import os
import struct
import sys
from array import array
from collections.abc import Iterator

_QCOW2_OFFSET = 0x00FF_FFFF_FFFF_FE00  # of an L2 table or a cluster
_QCOW2_COMPRESSED = 1 << 62
_QCOW_COMPRESSED = 1 << 63
_EXTENDED_L2 = 1 << 4  # incompatible feature: each entry is followed by a bitmap
_MAX_CLUSTER_BITS = 21


def qcow_end_bytes(fd: int) -> int:
    """Return the end of what lies furthest: L1 table, L2 tables, compressed data.

    Data that are not compressed are left to `qemu-img map`. Raises OSError, ValueError.
    """
    header = os.pread(fd, 112, 0)
    try:
        (version,) = struct.unpack_from(">I", header, 4)
        return _qcow_end(fd, header) if version == 1 else _qcow2_end(fd, header)
    except struct.error:
        raise ValueError("its header is cut off") from None


def _qcow2_end(fd: int, header: bytes) -> int:
    (cluster_bits,) = struct.unpack_from(">I", header, 20)
    l1_size, l1_offset = struct.unpack_from(">IQ", header, 36)
    (version,) = struct.unpack_from(">I", header, 4)
    features = struct.unpack_from(">Q", header, 72)[0] if version > 2 else 0
    _check_bits(cluster_bits)
    cluster_bytes = 1 << cluster_bits
    end_bytes: int = l1_offset + l1_size * 8
    size_shift = 62 - (cluster_bits - 8)
    for entry in _read_table(fd, l1_offset, l1_size * 8):
        table_offset = entry & _QCOW2_OFFSET
        if table_offset == 0:
            continue
        end_bytes = max(end_bytes, table_offset + cluster_bytes)
        entries = _read_table(fd, table_offset, cluster_bytes)
        for cluster in entries[::2] if features & _EXTENDED_L2 else entries:
            if cluster & _QCOW2_COMPRESSED:
                start_bytes = cluster & ((1 << size_shift) - 1) & ~511
                sectors = 1 + (cluster >> size_shift & ((1 << (cluster_bits - 8)) - 1))
                end_bytes = max(end_bytes, start_bytes + sectors * 512)
    return end_bytes


def _qcow_end(fd: int, header: bytes) -> int:
    size_bytes, cluster_bits, l2_bits = struct.unpack_from(">QBB", header, 24)
    (l1_offset,) = struct.unpack_from(">Q", header, 40)
    _check_bits(cluster_bits)
    reach_bits = cluster_bits + l2_bits
    l1_bytes = -(-size_bytes >> reach_bits) * 8
    end_bytes: int = l1_offset + l1_bytes
    size_shift = 63 - cluster_bits
    for table_offset in _read_table(fd, l1_offset, l1_bytes):
        if table_offset == 0:
            continue
        end_bytes = max(end_bytes, table_offset + (8 << l2_bits))
        for cluster in _read_table(fd, table_offset, 8 << l2_bits):
            if cluster & _QCOW_COMPRESSED:
                size_of_it = cluster >> size_shift & ((1 << cluster_bits) - 1)
                end_bytes = max(end_bytes, (cluster & ((1 << size_shift) - 1)) + size_of_it)
    return end_bytes


def _check_bits(cluster_bits: int) -> None:
    if not 9 <= cluster_bits <= _MAX_CLUSTER_BITS:
        raise ValueError("its header says no possible cluster size")


def _read_table(fd: int, offset_bytes: int, size_bytes: int) -> "array[int]":
    """Read big-endian numbers of eight bytes; those that lie beyond the end of the file are not there."""
    data = bytearray()
    for piece in _pieces(fd, offset_bytes, size_bytes):
        data += piece
    table = array("Q", bytes(data[: len(data) // 8 * 8]))
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _pieces(fd: int, offset_bytes: int, size_bytes: int) -> Iterator[bytes]:
    while size_bytes and (piece := os.pread(fd, min(size_bytes, 1 << 20), offset_bytes)):
        yield piece
        offset_bytes += len(piece)
        size_bytes -= len(piece)
