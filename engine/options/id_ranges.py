"""`--translate-uid` and `--translate-gid` in virtiofsd's form: KIND:FROM:TO:COUNT, any number of times."""

from collections.abc import Sequence
from typing import NamedTuple

from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError

SHIFTED, SQUASHED, FORBIDDEN = range(3)
"""`IdTarget` of workers/fs/id_map.pxd."""
MAX_RANGES = 64
"""In one direction."""
_END = 1 << 32
_FORM = "guest, host, squash-guest, squash-host or map:FROM:TO:COUNT, or forbid-guest:FROM:COUNT"

IdRange = tuple[int, int, int, int]
"""First, count, target, and which of the above."""


class IdRanges(NamedTuple):
    """What becomes of the numbers of one kind, users or groups."""

    to_host: list[IdRange]
    to_guest: list[IdRange]


def read_id_ranges(option: str, texts: Sequence[str]) -> IdRanges:
    """What the option says, however often it was given. Raises `ProgramError`."""
    found = IdRanges([], [])
    for text in texts:
        _read_one(option, text, found)
    return found


def _read_one(option: str, text: str, found: IdRanges) -> None:
    kind, *fields = text.split(":")
    if len(fields) != (2 if kind == "forbid-guest" else 3) or not all(field.isdecimal() for field in fields):
        raise ProgramError(f"{option} {printable(text)}: not of the form {_FORM}")
    first, *targets, count = (int(field) for field in fields)
    target = targets[0] if targets else 0
    match kind:
        case "guest":
            added = [(found.to_host, (first, count, target, SHIFTED))]
        case "host":
            added = [(found.to_guest, (first, count, target, SHIFTED))]
        case "squash-guest":
            added = [(found.to_host, (first, count, target, SQUASHED))]
        case "squash-host":
            added = [(found.to_guest, (first, count, target, SQUASHED))]
        case "forbid-guest":
            added = [(found.to_host, (first, count, 0, FORBIDDEN))]
        case "map":
            added = [
                (found.to_host, (first, count, target, SHIFTED)),
                (found.to_guest, (target, count, first, SHIFTED)),
            ]
        case _:
            raise ProgramError(f"{option} {printable(text)}: not of the form {_FORM}")
    for ranges, one in added:
        if fault := _fault_of(ranges, one):
            raise ProgramError(f"{option} {text}: {fault}")
        ranges.append(one)


def _fault_of(ranges: Sequence[IdRange], one: IdRange) -> str:
    first, count, target, kind = one
    if count == 0:
        return "the count is 0"
    if first + count > _END or target >= _END or (kind == SHIFTED and target + count > _END):
        return "goes beyond the last number, 4294967295"
    if any(first < other[0] + other[1] and other[0] < first + count for other in ranges):
        return "a range before has some of these numbers"
    if len(ranges) >= MAX_RANGES:
        return f"there are more than {MAX_RANGES} ranges"
    return ""
