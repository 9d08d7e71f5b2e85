"""Numbers as people read them in a terminal, and sizes as they write them."""

import contextlib
import re
from collections.abc import Collection, Mapping

SIZE_PATTERN = r"^\s*([0-9]+\s*[KMGTkmgt]?([iI]?[bB])?|0[xXoObB][0-9a-fA-F_]+)\s*$"
"""What `parse_size` takes, as JSON schemas have it."""
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_PLAIN = re.compile(r"0[xob][0-9a-f_]+", re.IGNORECASE)


def parse_size(text: str) -> int:
    """`10G`, `512MiB`, `4096`: bytes, in units of 1024. Raises `ValueError` for anything else.

    One way to write them, for options, in files and in bodies.
    """
    if _PLAIN.fullmatch(text.strip()):
        return int(text, 0)
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 10G or 512M")
    return int(match[1]) << _SIZE_UNITS[match[2].upper()]


def read_sizes(fields: Mapping[str, object], names: Collection[str]) -> dict[str, object]:
    """The same fields, with numbers for the sizes that these names have as text; what is none stays text."""
    found = dict(fields)
    for name in names:
        value = found.get(name)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                found[name] = parse_size(value)
    return found


def time_text(value_ns: float) -> str:
    """`850ns`, `12.3us`, `4.56ms`, `1.20s`; `-` for nothing."""
    if value_ns <= 0:
        return "-"
    for unit, size_ns in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value_ns >= size_ns:
            return _three_digits(value_ns / size_ns) + unit
    return f"{value_ns:.0f}ns"


def size_text(size_bytes: float) -> str:
    """`512 B`, `4.00 KiB`, `1.50 GiB`."""
    for unit, unit_bytes in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= unit_bytes:
            return f"{_three_digits(size_bytes / unit_bytes)} {unit}"
    return f"{size_bytes:.0f} B"


def count_text(count: float) -> str:
    """`17`, `1.23k`, `45.6M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return _three_digits(count / size) + unit
    return f"{count:.0f}"


def duration_text(duration_ns: int) -> str:
    """`12s`, `3m20s`, `5h04m`, `2d03h`."""
    seconds = duration_ns // 1_000_000_000
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds // 60 % 60:02}m"
    return f"{seconds // 86400}d{seconds // 3600 % 24:02}h"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
