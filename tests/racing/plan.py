"""Where everything lies in the racing guest's memory, and which words of it race between which values.

Two regions with a hole between them, and an end that is no region's; hole and end are guards. Every word has
legal values and illegal ones, so that a device which checks one reading and uses another gets an illegal
value past its checks. Such a value shows: it leads into a guard or into the trap, a buffer that only
descriptors name which no device may read, because they stand behind the ends of their tables.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from ringblk.shm.memory.region import MemoryRegion
from tests.rigs.inline_device import DISCARD, GPA, IN, OUT, UVA_OFFSET, WRITE_ZEROES
from tests.rigs.mock_driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MockDriver

RAM_BYTES = 0x20000
QUEUE_SIZE = 16
DISK_BYTES = 0x10000
# Offsets into the memory. The descriptor table begins it; what follows up to AVAIL is read by nobody.
AVAIL = 0x1000
USED = 0x1400
TABLES = 0x2000
HEADERS = 0x4000
STATUSES = 0x5000
TRAP = 0x6000
HOLE = 0x8000
HIGH = 0x9200
DATA = 0x10000
DATA_END = 0x1F800
GUARDS = ((HOLE, HIGH), (DATA_END, RAM_BYTES), (TRAP, TRAP + 0x1000))
CANARY = 0xC3
REGIONS = (
    MemoryRegion(GPA, HOLE, GPA + UVA_OFFSET, 0),
    MemoryRegion(GPA + HIGH, DATA_END - HIGH, GPA + UVA_OFFSET + HIGH, HIGH),
)
HEADS = (0, 4, 8, 12)
OUTSIDE = (GPA + HOLE, GPA + DATA_END, GPA + RAM_BYTES, 0xFFFFFFFFFFFFFE00)
CAPACITY_SECTORS = DISK_BYTES // 512
DATA_STARTS = (DATA_END - 2048, DATA_END - 1024)
"""Near the end of the region: a longer length passes it from either."""
LENGTHS = (512, 1024)
LONG_LENGTHS = (4096, 0xFFFFFE00)
UNKNOWN_TYPE = 99
VALUE_LIMIT = 8


class Word(NamedTuple):
    """A word of guest memory and the values that it is given, a legal one first."""

    offset_bytes: int
    size_bytes: int
    values: tuple[int, ...]


def encode(words: Iterable[Word]) -> bytes:
    """As Race (racing_guest.pyx) wants it."""
    return b"".join(
        struct.pack(
            "<QII8Q", *word[:2], len(word.values), *word.values, *(VALUE_LIMIT - len(word.values)) * (0,)
        )
        for word in words
    )


class RacingDriver(MockDriver):
    """A driver whose descriptor table, and each indirect table, is followed by descriptors of the trap."""

    def __init__(self, memory: memoryview) -> None:
        super().__init__(memory, GPA, QUEUE_SIZE)
        self.avail_gpa, self.used_gpa = GPA + AVAIL, GPA + USED
        self.used_event_gpa = self.avail_gpa + 4 + 2 * QUEUE_SIZE
        self.avail_event_gpa = self.used_gpa + 4 + 8 * QUEUE_SIZE

    def lay_out(self) -> None:
        """Write everything as it is between races: guards, traps, and a legal request at every head."""
        self.fill(GPA, RAM_BYTES, 0)
        for start, end in GUARDS:
            self.fill(GPA + start, end - start, CANARY)
        for start, end in ((16 * QUEUE_SIZE, AVAIL), (TABLES, HEADERS)):
            for index in range((end - start) // 16):
                self.descriptor(index, GPA + TRAP, 512, DESC_F_WRITE, table_gpa=GPA + start)
        for number, head in enumerate(HEADS):
            self.write(GPA + HEADERS + 64 * number, struct.pack("<IIQ", IN, 0, number))
            table_gpa = table_of(number) if number % 2 else None
            first = 0 if number % 2 else head
            if table_gpa:
                self.descriptor(head, table_gpa, 48, DESC_F_INDIRECT)
            self.descriptor(
                first, GPA + HEADERS + 64 * number, 16, DESC_F_NEXT, first + 1, table_gpa=table_gpa
            )
            flags = DESC_F_NEXT | DESC_F_WRITE
            self.descriptor(first + 1, GPA + DATA_STARTS[0], 512, flags, first + 2, table_gpa=table_gpa)
            self.descriptor(first + 2, GPA + STATUSES + number, 1, DESC_F_WRITE, table_gpa=table_gpa)

    def spoilt_guards(self) -> list[str]:
        """Where a guard has changed."""
        return [
            f"{start:#x} to {end:#x}"
            for start, end in GUARDS
            if self.read(GPA + start, end - start) != bytes([CANARY]) * (end - start)
        ]


def table_of(number: int) -> int:
    """Address of the indirect table of this head."""
    return GPA + TABLES + 0x400 * number


def request_words() -> list[Word]:
    """Words that make requests good or bad, and never break the queue."""
    words = []
    for number, head in enumerate(HEADS):
        header = HEADERS + 64 * number
        is_indirect = number % 2
        first = TABLES + 0x400 * number if is_indirect else 16 * head
        data, status = first + 16, first + 32
        starts = tuple(GPA + start for start in DATA_STARTS)
        words += [
            Word(first, 8, (GPA + header, GPA + header, GPA + header, OUTSIDE[0])),
            Word(data, 8, (*starts, *starts, *OUTSIDE)),
            Word(data + 8, 4, (*LENGTHS, *LENGTHS, *LONG_LENGTHS)),
            Word(data + 12, 2, (DESC_F_NEXT | DESC_F_WRITE, DESC_F_NEXT)),
            Word(status, 8, (GPA + STATUSES + number, GPA + STATUSES + number, OUTSIDE[1])),
            Word(header, 4, (IN, OUT, IN, OUT, DISCARD, WRITE_ZEROES, UNKNOWN_TYPE)),
            Word(header + 8, 8, (0, 64, CAPACITY_SECTORS - 1, CAPACITY_SECTORS, 1 << 63)),
        ]
        if is_indirect:
            words.append(Word(16 * head, 8, (table_of(number), table_of(number), OUTSIDE[2])))
            words.append(Word(16 * head + 8, 4, (48, 48, 40)))
    for start in DATA_STARTS:  # segments of a discard
        words.append(Word(start, 8, (0, 1, CAPACITY_SECTORS, 1 << 63)))
        words.append(Word(start + 8, 4, (1, 2, CAPACITY_SECTORS, 0xFFFFFFFF)))
        words.append(Word(start + 12, 4, (0, 1, 2)))
    return words


def ring_words() -> list[Word]:
    """Words that break the queue: heads, next fields, table lengths, the avail index."""
    words = [Word(AVAIL + 4 + 2 * position, 2, (*HEADS, 0, 4, 16, 0xFFFF)) for position in range(QUEUE_SIZE)]
    words.append(Word(AVAIL + 2, 2, (1, 2, QUEUE_SIZE + 20)))
    for number, head in enumerate(HEADS):
        is_indirect = number % 2
        first = TABLES + 0x400 * number if is_indirect else 16 * head
        following = 0 if is_indirect else head
        words.append(Word(first + 14, 2, (following + 1, following + 1, 16, 40)))
        words.append(Word(first + 30, 2, (following + 2, following + 2, 16, 40)))
        if is_indirect:
            words.append(Word(16 * head + 8, 4, (48, 48, 0, 0xFFFFFFF0)))
            words.append(Word(16 * head + 12, 2, (DESC_F_INDIRECT, DESC_F_INDIRECT, 0, 5)))
    return words
