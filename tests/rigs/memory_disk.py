"""A small disk in memory, as the tests of block requests have it."""

import random
import struct
from typing import TypeAlias

from ringblk.workers.backends.memory import MemoryBackend
from tests.rigs.inline_device import (
    InlineDevice,
)

DISK_BYTES = 1 << 18
SECTORS = DISK_BYTES // 512
RAM_CUTS = (0x8001, 0x8003, 0x8200, 0x9001, 0xA0FF, 0x20001)


def new_disk() -> tuple[MemoryBackend, bytearray]:
    """A disk of bytes that follow no pattern, and what is on it."""
    backend = MemoryBackend(DISK_BYTES)
    content = random.Random(3).randbytes(DISK_BYTES)
    backend.write_at(0, content)
    return backend, bytearray(content)


def content_of(backend: MemoryBackend) -> bytes:
    buffer = bytearray(DISK_BYTES)
    backend.read_at(0, buffer)
    return bytes(buffer)


def segments(*parts: tuple[int, int, int]) -> bytes:
    """Ranges of a DISCARD or WRITE_ZEROES: first sector, number of sectors and flags of each."""
    return b"".join(struct.pack("<QII", *part) for part in parts)


Disk: TypeAlias = tuple[InlineDevice, bytearray, MemoryBackend]
