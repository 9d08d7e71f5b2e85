"""What an overlay costs that can be counted: durable writes, bytes written, memory of its maps."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.crashes import RecordedFolder
from ringblk.engine.crashes.record_form import Kind, read_events
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.backends.overlay_changes import OverlayChanger
from ringblk.workers.layers.folder import LIVE

MIB = 1 << 20
BLOCK_BYTES = 4096
SIZE_BYTES = 4096 * MIB
PAGE_OF_THE_MAP_BYTES = 64 * MIB  # of the drive
WRITES = (Kind.WRITE, Kind.WRITE_DURABLY)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
    return path


def opened(base: Path, overlay: Path) -> OverlayBackend:
    backend = OverlayBackend(base, overlay)
    backend.image_lock().lock()
    return backend


def durable_writes(record: Path) -> list[int]:
    """How many there were between two marks each. FUSE has a long one in pieces."""
    counts = [0]
    place = (0, 0)
    for event in read_events(memoryview((record / "events").read_bytes())):
        if event.kind == Kind.MARK:
            counts.append(0)
        elif event.kind == Kind.FLUSH:
            counts[-1] += 1
        elif event.kind == Kind.WRITE_DURABLY:
            counts[-1] += (event.inode, event.offset) != place
            place = (event.inode, event.offset + event.size)
    return counts


def test_a_flush_is_two_durable_writes_with_new_blocks_and_one_without(
    tmp_path: Path, base: Path, recorded_folder: Callable[[Path], RecordedFolder]
) -> None:
    """One of data, and one of the journal's record; a record of many blocks is one write as well."""
    place = tmp_path / "place"
    place.mkdir()
    chance = random.Random(1)
    expected = []
    with recorded_folder(place) as recorded:
        backend = opened(base, place / "overlay")
        for new_count in (1, 40, 0, 3000, 0, *[1] * 600, 0):
            for block in chance.sample(range(SIZE_BYTES // BLOCK_BYTES), new_count):
                backend.write_at(block * BLOCK_BYTES, b"n" * BLOCK_BYTES)
            recorded.mark("flush")
            backend.flush()
            recorded.mark("flushed")
            expected.append(2 if new_count else 1)
        backend.close()
    counts = durable_writes(recorded.record)[1::2]
    assert len(counts) == len(expected)
    assert all(count <= most for count, most in zip(counts, expected, strict=True)), counts
    assert counts[2] == counts[4] == counts[-1] == 1


def test_what_is_written_for_the_first_time_is_hardly_more_than_the_data(
    tmp_path: Path, base: Path, recorded_folder: Callable[[Path], RecordedFolder]
) -> None:
    """Blocks here and there: data, records of 12 bytes each, units of 512 bytes of the map, the live map."""
    place = tmp_path / "place"
    place.mkdir()
    chance = random.Random(2)
    written_bytes = 0
    with recorded_folder(place) as recorded:
        backend = opened(base, place / "overlay")
        recorded.mark("begin")
        for block in chance.sample(range(SIZE_BYTES // BLOCK_BYTES // 8), 4096):
            backend.write_at(block * BLOCK_BYTES, b"n" * BLOCK_BYTES)
            written_bytes += BLOCK_BYTES
            if written_bytes % (64 * BLOCK_BYTES) == 0:
                backend.flush()
        backend.close()
    content = memoryview((recorded.record / "events").read_bytes())
    events = list(read_events(content))
    begin = next(event.time for event in events if event.kind == Kind.MARK)
    all_bytes = sum(event.size for event in events if event.kind in WRITES and event.time > begin)
    assert all_bytes <= 1.1 * written_bytes


def used_bytes(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def test_a_map_takes_64_bytes_for_each_mib_that_was_written_to(tmp_path: Path, base: Path) -> None:
    backend = opened(base, tmp_path / "overlay")
    before = used_bytes(backend.fd_of(f"{LIVE} 1"))
    for page in range(0, 32, 2):
        backend.write_at(page * PAGE_OF_THE_MAP_BYTES, b"n" * BLOCK_BYTES)
    taken = used_bytes(backend.fd_of(f"{LIVE} 1")) - before
    assert taken <= 16 * PAGE_OF_THE_MAP_BYTES // MIB * 64 + 4096  # and the bitmaps
    assert before <= 3 * 4096
    backend.close()


def test_an_index_takes_512_bytes_for_each_mib_whatever_the_number_of_layers(
    tmp_path: Path, base: Path
) -> None:
    """A page of the index has 8 MiB of the drive."""
    backend = opened(base, tmp_path / "overlay")
    changer = OverlayChanger(backend, "auto")
    taken = {}
    for number in range(1, 9):
        for page in range(16):
            backend.write_at(page * 8 * MIB + number * BLOCK_BYTES, b"n" * BLOCK_BYTES)
        changer.settle()
        change = changer.seal(f"number {number}")
        changer.write(change.chain)
        backend.use(change.found, change.fds)
        if number > 1:
            index = backend.found.index
            assert index is not None
            taken[number] = used_bytes(backend.fd_of(f"index {index.number}"))
    assert max(taken.values()) == taken[2] <= 16 * 8 * 512 + 4096
    changer.settle()
    backend.close()
