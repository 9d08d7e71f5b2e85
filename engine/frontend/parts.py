"""How one long transfer becomes several requests."""

from collections.abc import Iterable

from ringblk.engine.frontend.buffer import Buffer


def ranges(size_bytes: int, limit_bytes: int) -> Iterable[tuple[int, int]]:
    """Parts of at most `limit_bytes` that make up `size_bytes`, as (start, size)."""
    return ((start, min(limit_bytes, size_bytes - start)) for start in range(0, size_bytes, limit_bytes))


def staged_parts(staging: Buffer, size_bytes: int) -> Iterable[tuple[int, Buffer]]:
    """The same where each part goes through one buffer, as (start, buffer of its size)."""
    for start, part_bytes in ranges(size_bytes, staging.size_bytes):
        yield start, staging if part_bytes == staging.size_bytes else staging.part(0, part_bytes)
