"""One request on its way, what it must come back as, and what that means for the disk's model."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.block.protocol import DRIVE_ID_BYTES, RequestType
from tests.rigs.crash_load import Read, SectorModel, Write, check_sector_read, pattern
from tests.rigs.inline_device import (
    DISCARD,
    FLUSH,
    GET_ID,
    IN,
    IOERR,
    OK,
    OUT,
    UNSUPP,
    UNTOUCHED,
    WRITE_ZEROES,
)
from tests.rigs.mock_driver import MockDriver
from tests.stress.request_shape import Layout

DRIVE_ID = b"stress"


@dataclass
class Ask:
    """What a driver asks for: the bytes that the device reads, and how many it may write."""

    request_type: int
    readable: bytes
    writable_bytes: int
    status: int = OK
    """What it must be answered with if all its memory is there; UNTOUCHED: it has no status byte."""
    sector: int = 0
    num_sectors: int = 0
    stamp: int = 0


def header(request_type: int, sector: int = 0) -> bytes:
    """The first 16 bytes of a request (virtio 1.2, 5.2.6)."""
    return request_type.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")


def segment(sector: int, num_sectors: int, flags: int = 0) -> bytes:
    """A range of a DISCARD or WRITE_ZEROES."""
    return sector.to_bytes(8, "little") + num_sectors.to_bytes(4, "little") + flags.to_bytes(4, "little")


def good_ask(request_type: int, sector: int, num_sectors: int, stamp: int, flags: int = 0) -> Ask:
    """A request that a correct driver sends."""
    match request_type:
        case RequestType.IN:
            ask = Ask(IN, header(IN, sector), num_sectors * SECTOR_BYTES + 1)
        case RequestType.OUT:
            data = b"".join(pattern(stamp, sector + index) for index in range(num_sectors))
            ask = Ask(OUT, header(OUT, sector) + data, 1)
        case RequestType.GET_ID:
            return Ask(GET_ID, header(GET_ID), min(num_sectors, DRIVE_ID_BYTES) + 1)  # what fits is copied
        case RequestType.DISCARD | RequestType.WRITE_ZEROES:
            unmap = flags if request_type == WRITE_ZEROES else 0
            ask = Ask(request_type, header(request_type) + segment(sector, num_sectors, unmap), 1)
            stamp = 0  # what it leaves are zeroes
        case _:
            return Ask(FLUSH, header(FLUSH), 1)
    ask.sector, ask.num_sectors, ask.stamp = sector, num_sectors, stamp
    return ask


BAD_ASKS: dict[str, Callable[[int], Ask]] = {
    "unknown type": lambda capacity: Ask(77, header(77), 1, UNSUPP),
    "read past the end": lambda capacity: Ask(IN, header(IN, capacity), 513, IOERR),
    "read across the end": lambda capacity: Ask(IN, header(IN, capacity - 1), 1025, IOERR),
    "write past the end": lambda capacity: Ask(OUT, header(OUT, capacity) + bytes(512), 1, IOERR),
    "write at a sector that overflows": lambda capacity: Ask(
        OUT, header(OUT, (1 << 64) - 1) + bytes(512), 1, IOERR
    ),
    "write at a byte that overflows": lambda capacity: Ask(OUT, header(OUT, 1 << 55) + bytes(512), 1, IOERR),
    "write of part of a sector": lambda capacity: Ask(OUT, header(OUT) + b"12345", 1, IOERR),
    "read of part of a sector": lambda capacity: Ask(IN, header(IN), 100, IOERR),
    "header too short": lambda capacity: Ask(IN, header(IN)[:9], 513, IOERR),
    "no header": lambda capacity: Ask(IN, b"", 1, IOERR),
    "no status byte": lambda capacity: Ask(OUT, header(OUT) + bytes(512), 0, UNTOUCHED),
    "discard past the end": lambda capacity: Ask(DISCARD, header(DISCARD) + segment(capacity, 1), 1, IOERR),
    "discard with a flag": lambda capacity: Ask(DISCARD, header(DISCARD) + segment(0, 1, 1), 1, UNSUPP),
    "zeroes with unknown flags": lambda capacity: Ask(
        WRITE_ZEROES, header(WRITE_ZEROES) + segment(0, 1, 6), 1, UNSUPP
    ),
    "zeroes whose length overflows": lambda capacity: Ask(
        WRITE_ZEROES, header(WRITE_ZEROES) + segment(0, (1 << 32) - 1), 1, IOERR
    ),
    "part of a segment": lambda capacity: Ask(
        WRITE_ZEROES, header(WRITE_ZEROES) + segment(0, 1)[:15], 1, IOERR
    ),
}
"""Requests that are refused, with a status byte if there is a place for it; of the capacity in sectors."""


@dataclass
class Expected:
    """How a request must come back: the used length, and the status byte with its place."""

    used_bytes: int
    status: int
    status_gpa: int | None


@dataclass
class StressRequest:
    """A request that was offered."""

    ask: Ask
    layout: Layout
    indices: list[int]
    slab_gpa: int
    expected: Expected
    may_fail: bool = False
    """Its memory has gone or come while it was offered: done or refused, but nothing between."""
    writes: list[tuple[int, Write]] = field(default_factory=list)
    reads: list[tuple[int, Read]] = field(default_factory=list)

    def begin(self, model: SectorModel) -> None:
        """It is about to be offered."""
        if self.ask.status != OK:
            return
        sectors = range(self.ask.sector, self.ask.sector + self.ask.num_sectors)
        if self.ask.request_type == IN:
            self.reads = [(sector, model.begin_read(sector)) for sector in sectors]
        else:
            self.writes = [(sector, model.begin_write(sector, self.ask.stamp)) for sector in sectors]

    def end(self, model: SectorModel, driver: MockDriver, used_bytes: int) -> None:
        """It came back: check everything, and bring the model up to it."""
        written = self.layout.read_writable(driver)
        if self.may_fail:
            is_done = written[-1:] == bytes([OK])
            assert used_bytes in ((len(written),) if is_done else (0, 1)), f"{self.ask}: used {used_bytes}"
            self.layout.note_written(written)
        else:
            is_done = self.expected.status == OK
            self._check_answer(driver, used_bytes)
            if is_done:
                self.layout.note_written(written)
        self._settle(model, written, is_done)
        found = driver.read(self.layout.start_gpa, len(self.layout.snapshot))
        assert found == self.layout.snapshot, f"{self.ask}: bytes that are none of the device's were written"

    def leave(self, model: SectorModel) -> None:
        """It will not come back."""
        for _, write in self.writes:
            model.leave_write(write)
        for _, read in self.reads:
            model.end_read(read)

    def _check_answer(self, driver: MockDriver, used_bytes: int) -> None:
        expected = self.expected
        assert used_bytes == expected.used_bytes, f"{self.ask}: used length {used_bytes}, not {expected}"
        if expected.status_gpa is not None:
            status = driver.read(expected.status_gpa, 1)[0]
            assert status == expected.status, f"{self.ask}: status {status}, not {expected}"
            self.layout.snapshot[expected.status_gpa - self.layout.start_gpa] = status

    def _settle(self, model: SectorModel, written: bytes, is_done: bool) -> None:
        for sector, write in self.writes:
            if not is_done:
                model.refuse_write(sector, write)
            elif self.ask.request_type == DISCARD:
                model.leave_write(write)  # it says nothing of what is read afterwards
            else:
                model.end_write(sector, write)
        for index, (sector, read) in enumerate(self.reads):
            model.end_read(read)
            if is_done:
                piece = written[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES]
                check_sector_read(sector, piece, read.allowed, "read")
        if is_done and self.ask.request_type == GET_ID:
            assert written[:-1] == DRIVE_ID.ljust(DRIVE_ID_BYTES, b"\0")[: len(written) - 1]
