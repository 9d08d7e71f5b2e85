"""Block requests from chain to status byte, on the real dispatch loop and parser (virtio 1.2, 5.2.6)."""

import random
import struct
import time
from pathlib import Path
from typing import TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit import WRITE
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.backends.python import PythonBackend
from ringblk.workers.block.protocol import MAX_DISCARD_SECTORS, MAX_SEGMENTS, MAX_WRITE_ZEROES_SECTORS
from ringblk.workers.block.protocol import SEGMENT_F_UNMAP as UNMAP
from tests.rigs.inline_device import (
    DISCARD,
    FLUSH,
    GET_ID,
    GPA,
    IN,
    IOERR,
    OK,
    OUT,
    WRITE_ZEROES,
    InlineDevice,
    cut_pieces,
)
from tests.rigs.memory_disk import DISK_BYTES, RAM_CUTS, SECTORS, Disk, content_of, new_disk, segments

# Chain shapes: header, data and status may be cut anywhere, and lie anywhere in cut guest memory.


class Shape(TypedDict):
    """How a chain is laid out."""

    seed: int
    indirect: bool | int
    cuts: list[int]
    skip: int


SHAPES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1 << 32),
        "indirect": st.sampled_from([False, True, 0, 1, 2]),
        "cuts": st.lists(st.integers(1, 4200), max_size=12),
        "skip": st.integers(0, 4200),
    }
)


@settings(max_examples=150, deadline=None)
@given(shape=SHAPES, sector=st.integers(0, SECTORS - 8), num_sectors=st.integers(0, 8), writes=st.booleans())
def test_reads_and_writes_in_any_shape(shape: Shape, sector: int, num_sectors: int, writes: bool) -> None:
    backend, content = new_disk()
    data = random.Random(shape["seed"]).randbytes(512 * num_sectors)
    start, end = 512 * sector, 512 * (sector + num_sectors)
    with InlineDevice(backend, queue_size=32, cuts=RAM_CUTS) as device:
        device.driver.places_gpa = GPA + 0x7000 + shape["skip"]
        indirect = shape["indirect"]
        if writes:
            status, used_length, _ = device.request(
                OUT, sector, data=data, cuts=shape["cuts"], indirect=indirect
            )
            content[start:end] = data
            assert (status, used_length) == (OK, 1)
        else:
            status, used_length, found = device.request(
                IN, sector, read_bytes=len(data), cuts=shape["cuts"], indirect=indirect
            )
            assert (status, used_length) == (OK, len(data) + 1)
            assert found == content[start:end]
    assert content_of(backend) == content


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, room=st.integers(0, 40), drive_id=st.binary(max_size=30))
def test_get_id_is_20_bytes_padded_and_cut(shape: Shape, room: int, drive_id: bytes) -> None:
    with InlineDevice(MemoryBackend(4096), queue_size=32, cuts=RAM_CUTS, drive_id=drive_id) as device:
        device.driver.places_gpa = GPA + 0x7000 + shape["skip"]
        cuts = [cut % 64 for cut in shape["cuts"]]
        status, used_length, found = device.request(
            GET_ID, read_bytes=room, cuts=cuts, indirect=shape["indirect"]
        )
        given_bytes = min(room, 20)
        assert (status, used_length) == (OK, given_bytes + 1)
        assert found[:given_bytes] == drive_id[:20].ljust(20, b"\0")[:given_bytes]
        assert found[given_bytes:] == b"\xaa" * (room - given_bytes)


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    parts=st.lists(
        st.tuples(st.integers(0, SECTORS - 64), st.integers(0, 64), st.sampled_from([0, UNMAP])),
        min_size=1,
        max_size=16,
    ),
)
def test_write_zeroes_in_any_shape(shape: Shape, parts: list[tuple[int, int, int]]) -> None:
    backend, content = new_disk()
    with InlineDevice(backend, queue_size=32, cuts=RAM_CUTS) as device:
        device.driver.places_gpa = GPA + 0x7000 + shape["skip"]
        cuts = [cut % 300 for cut in shape["cuts"]]
        answer = device.request(WRITE_ZEROES, data=segments(*parts), cuts=cuts, indirect=shape["indirect"])
        assert answer == (OK, 1, b"")
    for sector, num_sectors, _ in parts:
        content[512 * sector : 512 * (sector + num_sectors)] = bytes(512 * num_sectors)
    assert content_of(backend) == content


def test_flush_and_discard(disk: Disk) -> None:
    device, content, backend = disk
    assert device.request(FLUSH) == (OK, 1, b"")
    assert device.request(DISCARD, data=segments((8, 8, 0), (64, 64, 0)), cuts=[5, 20, 31]) == (OK, 1, b"")
    kept = content_of(backend)
    assert kept[: 8 * 512] == content[: 8 * 512]
    assert kept[128 * 512 :] == content[128 * 512 :]


# What is refused, with which status; nothing is read or written then.


@pytest.mark.parametrize(
    "request_type_and_data",
    [(OUT, bytes(512)), (DISCARD, segments((0, 8, 0))), (WRITE_ZEROES, segments((0, 8, 0)))],
    ids=["write", "discard", "write zeroes"],
)
def test_a_read_only_drive_is_not_changed(request_type_and_data: tuple[int, bytes]) -> None:
    backend, content = new_disk()
    request_type, data = request_type_and_data
    with InlineDevice(backend, is_read_only=True) as device:
        assert device.request(request_type, data=data) == (IOERR, 1, b"")
        assert device.request(IN, read_bytes=512) == (OK, 513, bytes(content[:512]))
        assert device.request(FLUSH) == (OK, 1, b"")
    assert content_of(backend) == content


@pytest.mark.parametrize(
    ("request_type", "most_sectors"),
    [(DISCARD, MAX_DISCARD_SECTORS), (WRITE_ZEROES, MAX_WRITE_ZEROES_SECTORS)],
)
def test_a_segment_may_be_as_long_as_config_space_says(request_type: int, most_sectors: int) -> None:
    with InlineDevice(NullBackend(1 << 40)) as device:
        whole = segments(*[(0, most_sectors, 0)] * MAX_SEGMENTS)
        assert device.request(request_type, data=whole) == (OK, 1, b"")
        beyond = segments((0, 8, 0), (0, most_sectors + 1, 0))
        assert device.request(request_type, data=beyond) == (IOERR, 1, b"")


def test_zeroes_to_be_written_cost_their_bytes() -> None:
    """What may be given back instead, or is discarded, costs none."""
    with InlineDevice(MemoryBackend(DISK_BYTES)) as device:
        limit = device.state.rate_limit
        two_in_hours = BucketSettings(tokens=1, burst=2 * 4096)  # of 4096 bytes
        limit.configure(RateLimitSettings(bytes_write=two_in_hours), time.monotonic_ns())
        assert device.request(DISCARD, data=segments((0, 16, 0)))[0] == OK
        assert device.request(WRITE_ZEROES, data=segments((0, 16, UNMAP)))[0] == OK
        assert device.request(WRITE_ZEROES, data=segments((0, 4, 0), (64, 16, UNMAP), (8, 4, 0)))[0] == OK
        assert limit.acquire(WRITE, 4096, time.monotonic_ns()) == 0
        assert limit.acquire(WRITE, 4096, time.monotonic_ns()) > 0


def test_status_in_the_last_byte_of_the_data_descriptor(disk: Disk) -> None:
    device, content, _ = disk
    driver = device.driver
    header = driver.place(struct.pack("<IIQ", IN, 0, 4))
    buffer = driver.place(b"\xff" * 1025)
    driver.offer(driver.make_chain([(header, 16, False), (buffer, 1025, True)]))
    assert device.run() == [(0, 1025)]
    assert driver.read(buffer, 1025) == content[2048:3072] + b"\0"


def test_a_batch_is_served_in_one_go_and_called_once(disk: Disk) -> None:
    device, content, _ = disk
    driver = device.driver
    places = []
    for number in range(5):
        header = driver.place(struct.pack("<IIQ", IN, 0, number))
        buffer = driver.reserve(513)
        places.append((buffer, number))
        driver.make_chain([(header, 16, False), (buffer, 513, True)], indices=[2 * number, 2 * number + 1])
    driver.offer(*(2 * number for _, number in places))
    assert sorted(device.run()) == [(2 * number, 513) for _, number in places]
    for buffer, number in places:
        assert driver.read(buffer, 513) == content[512 * number : 512 * (number + 1)] + b"\0"


# Host errors, and direct I/O on odd addresses.


class Failing:
    """A backend whose every request raises."""

    size_bytes = DISK_BYTES
    read_only = False

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        raise RuntimeError("no such luck")

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        raise OSError(28, "full")

    def flush(self) -> None:
        raise ValueError("not now")


def test_what_a_backend_raises_is_ioerr() -> None:
    with InlineDevice(PythonBackend(Failing())) as device:
        assert device.request(IN, read_bytes=512)[:2] == (IOERR, 1)
        assert device.request(OUT, data=bytes(512))[:2] == (IOERR, 1)
        assert device.request(FLUSH)[:2] == (IOERR, 1)
        assert device.request(GET_ID, read_bytes=20)[0] == OK


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, sector=st.integers(0, 64), num_sectors=st.integers(1, 8), writes=st.booleans())
def test_direct_io_with_buffers_at_odd_addresses(
    tmp_path_factory: pytest.TempPathFactory, shape: Shape, sector: int, num_sectors: int, writes: bool
) -> None:
    content = bytearray(random.Random(4).randbytes(1 << 16))
    path = Path("/dev/shm") / tmp_path_factory.mktemp("direct").name
    path.write_bytes(content)
    data = random.Random(shape["seed"]).randbytes(512 * num_sectors)
    start, end = 512 * sector, 512 * (sector + num_sectors)
    try:
        backend = FileBackend(path, direct="on")
        assert backend.direct
        with InlineDevice(backend, queue_size=32, cuts=RAM_CUTS) as device:
            device.driver.places_gpa = GPA + 0x7000 + shape["skip"]
            if writes:
                assert device.request(OUT, sector, data=data, cuts=shape["cuts"]) == (OK, 1, b"")
                content[start:end] = data
            else:
                answer = device.request(IN, sector, read_bytes=len(data), cuts=shape["cuts"])
                assert answer == (OK, len(data) + 1, bytes(content[start:end]))
        backend.close()
        assert path.read_bytes() == content
    finally:
        path.unlink()


def test_cut_pieces_cuts_and_keeps_everything() -> None:
    assert cut_pieces([(100, 10, False), (500, 5, True)], [3, 10, 12, 99]) == [
        (100, 3, False),
        (103, 7, False),
        (500, 2, True),
        (502, 3, True),
    ]
