"""The map of a settled layer, read while a merge writes to it.

Fault model: who merges is held up by the host in the middle of writing a unit; a unit is damaged for good.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.workers.layers.form import UNIT_WORDS, MapLayout
from ringblk.workers.layers.sealed_map import SealedMap
from tests.rigs.process_tree import process_state

SIZE_BYTES = 32 << 20
PRESENT = 3
UNIT_OFFSET = MapLayout.of(SIZE_BYTES).map_offset


def unit_of(words: list[int]) -> bytes:
    content = struct.pack(f"<I{UNIT_WORDS}Q", 0, *words)
    return struct.pack("<I", zlib.crc32(content)) + content


BEFORE = unit_of([PRESENT] + [0] * (UNIT_WORDS - 1))
AFTER = unit_of([PRESENT] * UNIT_WORDS)
TORN = AFTER[:256] + BEFORE[256:]


@pytest.fixture
def map_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "map", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, MapLayout.of(SIZE_BYTES).file_bytes)
    os.pwrite(fd, TORN, UNIT_OFFSET)
    yield fd
    os.close(fd)


def test_who_is_held_up_while_a_unit_is_written_is_waited_for(map_fd: int) -> None:
    sealed, reader_pid = SealedMap(map_fd, SIZE_BYTES), os.getpid()
    writer_pid = os.fork()
    if writer_pid == 0:
        try:
            while process_state(reader_pid) != "S":  # it does not look again and again, but waits
                os.sched_yield()
            os.pwrite(map_fd, AFTER, UNIT_OFFSET)
        finally:
            os._exit(0)
    assert sealed.state(32 * (UNIT_WORDS - 1)) == PRESENT
    os.waitpid(writer_pid, 0)


def test_one_that_stays_damaged_is_an_error(map_fd: int) -> None:
    sealed = SealedMap(map_fd, SIZE_BYTES)
    for _ in range(2):  # at once, the second time
        with pytest.raises(OSError, match="Input/output error"):
            sealed.state(0)
    os.pwrite(map_fd, AFTER, UNIT_OFFSET)
    assert sealed.state(0) == PRESENT
