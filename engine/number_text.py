"""Numbers as people read them in a terminal."""


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
