"""Requests that are refused, with a status byte if there is a place for it, and chains that are none."""

import struct
from typing import Required, TypeAlias, TypedDict

import pytest

from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.block.protocol import SEGMENT_F_UNMAP as UNMAP
from tests.rigs.inline_device import (
    DISCARD,
    FLUSH,
    GPA,
    IN,
    IOERR,
    OK,
    OUT,
    UNSUPP,
    WRITE_ZEROES,
    InlineDevice,
)
from tests.rigs.memory_disk import DISK_BYTES, SECTORS, Disk, content_of, segments


class Request(TypedDict, total=False):
    """What a request is made of."""

    request_type: Required[int]
    sector: int
    data: bytes
    read_bytes: int


BAD_REQUESTS: dict[str, tuple[Request, int]] = {
    "unknown type": ({"request_type": 3}, UNSUPP),
    "legacy scsi": ({"request_type": 2, "data": bytes(64)}, UNSUPP),
    "secure erase": ({"request_type": 14, "data": segments((0, 8, 0))}, UNSUPP),
    "largest type": ({"request_type": 0xFFFFFFFF}, UNSUPP),
    "read past the end": ({"request_type": IN, "sector": SECTORS - 1, "read_bytes": 1024}, IOERR),
    "read at the end": ({"request_type": IN, "sector": SECTORS, "read_bytes": 512}, IOERR),
    "write past the end": ({"request_type": OUT, "sector": SECTORS - 1, "data": bytes(1024)}, IOERR),
    "read whose end overflows": ({"request_type": IN, "sector": (1 << 64) - 1, "read_bytes": 1024}, IOERR),
    "write whose end overflows": ({"request_type": OUT, "sector": (1 << 64) - 1, "data": bytes(1024)}, IOERR),
    "sector whose offset overflows": ({"request_type": OUT, "sector": 1 << 55, "data": bytes(512)}, IOERR),
    "read of a part of a sector": ({"request_type": IN, "read_bytes": 511}, IOERR),
    "read of a sector and a byte": ({"request_type": IN, "read_bytes": 513}, IOERR),
    "write of a part of a sector": ({"request_type": OUT, "data": bytes(100)}, IOERR),
    "write of a sector and a byte": ({"request_type": OUT, "data": bytes(513)}, IOERR),
    "discard of no segment": ({"request_type": DISCARD}, IOERR),
    "discard of half a segment": ({"request_type": DISCARD, "data": segments((0, 8, 0))[:8]}, IOERR),
    "discard with unmap": ({"request_type": DISCARD, "data": segments((0, 8, UNMAP))}, UNSUPP),
    "discard with an unknown flag": ({"request_type": DISCARD, "data": segments((0, 8, 2))}, UNSUPP),
    "zeroes with an unknown flag": ({"request_type": WRITE_ZEROES, "data": segments((0, 8, 2))}, UNSUPP),
    "zeroes, the second past the end": (
        {"request_type": WRITE_ZEROES, "data": segments((0, 8, 0), (SECTORS, 1, 0))},
        IOERR,
    ),
    "zeroes, the second with a bad flag": (
        {"request_type": WRITE_ZEROES, "data": segments((0, 8, 0), (8, 1, 4))},
        UNSUPP,
    ),
    "zeroes whose end overflows": (
        {"request_type": WRITE_ZEROES, "data": segments(((1 << 64) - 1, 8, 0))},
        IOERR,
    ),
    "17 segments": ({"request_type": WRITE_ZEROES, "data": segments(*[(0, 1, 0)] * 17)}, IOERR),
}


@pytest.mark.parametrize(("request_and_status"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_gets_its_status_and_does_nothing(
    disk: Disk, request_and_status: tuple[Request, int]
) -> None:
    device, content, backend = disk
    request, expected = request_and_status
    status, used_length, found = device.request(**request)
    assert (status, used_length) == (expected, 1)
    assert found == b"\xaa" * len(found)
    assert content_of(backend) == content
    assert device.request(IN, read_bytes=512) == (OK, 513, bytes(content[:512]))


@pytest.mark.parametrize("request_type", [FLUSH, DISCARD, WRITE_ZEROES])
def test_what_is_not_offered_is_unsupported(request_type: int) -> None:
    data = b"" if request_type == FLUSH else segments((0, 8, 0))
    with InlineDevice(MemoryBackend(DISK_BYTES), is_flush_offered=False, is_discard_offered=False) as device:
        assert device.request(request_type, data=data) == (UNSUPP, 1, b"")


# Chains that are no request.

READABLE, WRITABLE, OUTSIDE = GPA + 0x8000, GPA + 0x9000, GPA + (1 << 30)
HEADER_PIECE, DATA_PIECE, STATUS_PIECE = (
    (READABLE, 16, False),
    (WRITABLE, 512, True),
    (WRITABLE + 512, 1, True),
)
BadChain: TypeAlias = tuple[list[tuple[int, int, bool]], int, int | None]  # pieces, used length, status
BAD_CHAINS: dict[str, BadChain] = {
    "nothing writable": ([HEADER_PIECE], 0, None),
    "an empty writable piece": ([HEADER_PIECE, (WRITABLE + 512, 0, True)], 0, None),
    "status outside memory": ([HEADER_PIECE, DATA_PIECE, (OUTSIDE, 1, True)], 0, None),
    "everything outside memory": ([(OUTSIDE, 16, False), (OUTSIDE + 16, 1, True)], 0, None),
    "no header": ([STATUS_PIECE], 1, IOERR),
    "15 bytes of header": ([(READABLE, 15, False), DATA_PIECE, STATUS_PIECE], 1, IOERR),
    "header outside memory": ([(OUTSIDE, 16, False), DATA_PIECE, STATUS_PIECE], 1, IOERR),
    "data outside memory": ([HEADER_PIECE, (OUTSIDE, 512, True), STATUS_PIECE], 1, IOERR),
    "data over the end of memory": ([HEADER_PIECE, (GPA + 0xFFF00, 512, True), STATUS_PIECE], 1, IOERR),
    "an address that overflows": ([HEADER_PIECE, ((1 << 64) - 256, 512, True), STATUS_PIECE], 1, IOERR),
    "readable after writable": ([HEADER_PIECE, DATA_PIECE, (READABLE, 16, False), STATUS_PIECE], 1, IOERR),
}


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("case", BAD_CHAINS.values(), ids=BAD_CHAINS)
def test_a_chain_that_is_no_request(disk: Disk, case: BadChain, indirect: bool) -> None:
    device, content, _ = disk
    pieces, expected_length, expected_status = case
    driver = device.driver
    driver.write(READABLE, struct.pack("<IIQ", IN, 0, 0))
    driver.write(WRITABLE, b"\xee" * 513)
    driver.next_place = GPA + 0x10000
    driver.offer(driver.make_chain(pieces, indirect=indirect))
    assert device.run() == [(0, expected_length)]
    assert driver.read(WRITABLE, 512) == b"\xee" * 512
    if expected_status is not None:
        assert driver.read(WRITABLE + 512, 1) == bytes([expected_status])
    assert device.virtqueue.broken == 0
    assert device.request(IN, read_bytes=512) == (OK, 513, bytes(content[:512]))


@pytest.mark.parametrize(
    ("length", "where"), [(0, READABLE), (15, READABLE), (17, READABLE), (16, OUTSIDE), (16 * 40000, GPA)]
)
def test_an_indirect_table_that_is_none_is_one_bad_request(disk: Disk, length: int, where: int) -> None:
    device, content, _ = disk
    device.driver.descriptor(3, where, length, 4)
    device.driver.offer(3)
    assert device.run() == [(3, 0)]
    assert device.virtqueue.broken == 0
    assert device.request(IN, read_bytes=512) == (OK, 513, bytes(content[:512]))
