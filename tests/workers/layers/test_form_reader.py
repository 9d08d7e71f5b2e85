"""The form of a layer is what docs/layers.md says: a reader made of that page alone reads one."""

import os
import random
import struct
import zlib
from pathlib import Path

import pytest

from ringblk.workers.backends.overlay import OverlayBackend


def read_layer(folder: Path, base: Path) -> bytes:
    """All of a drive. Nothing of ringblk is used here."""
    with (folder / "map").open("rb") as file:
        superblock = file.read(4096)
        assert superblock[:8] == b"RBLAYER\n"
        version, checksum, layer_id, size, block_bytes, records, journal_at, map_at, units = (
            struct.unpack_from("<II16sQIIQQQ", superblock, 8)
        )
        assert version == 1
        assert zlib.crc32(superblock[:12] + bytes(4) + superblock[16:]) == checksum
        file.seek(journal_at)
        journal = [file.read(512) for _ in range(records)]
        file.seek(map_at)
        words: list[int] = []
        for number in range(units):
            unit = file.read(512)
            if unit != bytes(512):
                assert struct.unpack_from("<II", unit) == (zlib.crc32(unit[4:]), number)
            words += struct.unpack_from("<63Q", unit, 8)
    for record in journal:
        checksum, count, tag = struct.unpack_from("<II8s", record)
        if checksum == zlib.crc32(record[4:]) and tag == layer_id[:8]:
            for index in range(count):
                word, bits = struct.unpack_from("<IQ", record, 16 + 12 * index)
                words[word] |= bits
    drive = b""
    with (folder / "data").open("rb") as data, base.open("rb") as under:
        for block in range(-(-size // block_bytes)):
            state = words[block // 32] >> 2 * (block % 32) & 3
            source = {0b00: under, 0b11: data}.get(state)
            content = b""
            if source is not None:
                source.seek(block * block_bytes)
                content = source.read(block_bytes)
            drive += content.ljust(block_bytes, b"\0")
    return drive[:size]


@pytest.mark.parametrize("base_bytes", [1 << 20, 9 * 4096 + 512])
@pytest.mark.parametrize("is_moved", [False, True])
def test_the_page_says_all(tmp_path: Path, base_bytes: int, is_moved: bool) -> None:
    """Also of a layer whose map has nothing yet of what its journal says."""
    chance = random.Random(base_bytes)
    content = chance.randbytes(base_bytes)
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    base.write_bytes(content)
    size_bytes = 3000 * 4096 + 512
    model = bytearray(content.ljust(size_bytes, b"\0"))
    backend = OverlayBackend(base, overlay, size_bytes=size_bytes, direct="off")
    backend.image_lock().lock()
    for offset in (512, 3 * 4096, 2015 * 4096, 2999 * 4096, 3000 * 4096):
        data = chance.randbytes(512 * 13)[: size_bytes - offset]
        backend.write_at(offset, data)
        model[offset : offset + len(data)] = data
        backend.flush()
    backend.write_zeroes(5 * 4096, 3 * 4096)
    model[5 * 4096 : 8 * 4096] = bytes(3 * 4096)
    backend.close()
    if is_moved:
        with (overlay / "map").open("r+b") as file:
            os.pwrite(file.fileno(), bytes(1024), 528384)
    assert read_layer(overlay, base) == model
