"""Direct I/O: past the host's page cache, and what it asks of a request's alignment.

A guest has a page cache of its own; caching its drive a second time on the host costs memory and copies
and makes a completed write less than it seems.
"""

import errno
import logging
import mmap
import os
import stat
from typing import Literal, NamedTuple

from ringblk.shm.platform import block_device
from ringblk.shm.platform.statx import DIO_ALIGN, read_statx
from ringblk.shm.platform.uncached import HAS_UNCACHED, NEEDS_ALIGNMENT, set_uncached, unset_uncached
from ringblk.workers.backends.topology import SECTOR_BYTES

DirectMode = Literal["auto", "on", "off"]


class Alignment(NamedTuple):
    """What direct I/O on a file wants: offsets, lengths and memory addresses in multiples of these."""

    offset_bytes: int
    memory_bytes: int


def set_direct(fd: int) -> Alignment:
    """Let I/O on `fd` go past the page cache; OSError where the file system refuses (EINVAL)."""
    set_uncached(fd)
    if not NEEDS_ALIGNMENT:
        return Alignment(SECTOR_BYTES, 1)
    try:
        return find_alignment(fd)
    except OSError:
        unset_direct(fd)
        raise


def set_direct_for_size(fd: int, size_bytes: int) -> Alignment:
    """`set_direct`, unless the last block reaches past the end: writing it would make the file longer."""
    alignment = set_direct(fd)
    if size_bytes % alignment.offset_bytes:
        unset_direct(fd)
        raise OSError(errno.EINVAL, f"its size is no multiple of {alignment.offset_bytes}")
    return alignment


def unset_direct(fd: int) -> None:
    """Let I/O on `fd` go through the page cache again."""
    unset_uncached(fd)


def warn_of_refusal(log: logging.Logger, text: str) -> None:
    """Say that I/O goes through the page cache. Where nothing goes past it, that is no news of a file."""
    if HAS_UNCACHED:
        log.warning("%s", text)


def find_alignment(fd: int) -> Alignment:
    """What direct I/O on `fd`, which has it turned on, asks for; OSError if it doesn't work after all."""
    stated = read_statx_alignment(fd)
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        block_bytes = block_device.logical_block_bytes(fd)
        return Alignment(block_bytes, stated.memory_bytes if stated else block_bytes)
    if stated is None:
        return try_alignments(fd)
    if stated.offset_bytes == 0:  # statx(2): direct I/O is not supported on this file
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return stated


def read_statx_alignment(fd: int) -> Alignment | None:
    """What statx(2) says, or None where it says nothing."""
    stated = read_statx(fd, DIO_ALIGN)
    return None if stated is None else Alignment(offset_bytes=stated[1], memory_bytes=stated[0])


def try_alignments(fd: int) -> Alignment:
    """The smaller of 512 and 4096 that a read succeeds with; the last error if none does."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page, memoryview(page) as view:
        for size_bytes in (SECTOR_BYTES, 4096):
            try:
                with view[:size_bytes] as buffer:
                    os.preadv(fd, [buffer], size_bytes)
            except OSError as error:
                if error.errno != errno.EINVAL or size_bytes == 4096:
                    raise
            else:
                return Alignment(size_bytes, size_bytes)
    raise AssertionError("the last size either returns or raises")
