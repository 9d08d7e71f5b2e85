"""A region of guest memory as a front end describes it (vhost-user, "Memory region description")."""

import os
import stat
from collections.abc import Iterable

import msgspec


class RegionError(Exception):
    """A memory region cannot be mapped or does not fit the table; the message says what is wrong.

    The front end described it wrongly: refuse the message that brought it.
    """


class MemoryRegion(msgspec.Struct, frozen=True):
    """Where a piece of guest memory lies: for the guest, for the front end, and in the fd that holds it.

    `gpa` is the guest physical address, `uva` the front end's own virtual address (ring addresses come
    in as `uva`, descriptor addresses as `gpa`), `mmap_offset_bytes` where it begins in its fd.
    """

    gpa: int
    size_bytes: int
    uva: int
    mmap_offset_bytes: int


def check_region(region: MemoryRegion, fd: int) -> None:
    """Refuse a region that cannot be mapped safely: empty, overflowing, or beyond the end of its file.

    Raises `RegionError`. Touching a mapping beyond the end of its file is a SIGBUS, so the size is checked
    before any process maps it.
    """
    if region.size_bytes == 0:
        raise RegionError(f"memory region at {region.gpa:#x} is empty")
    for name in ("gpa", "uva", "mmap_offset_bytes"):
        if getattr(region, name) + region.size_bytes > 1 << 64:
            raise RegionError(f"memory region at {region.gpa:#x}: {name} plus size overflows 64 bits")
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode):
        end_bytes = region.mmap_offset_bytes + region.size_bytes
        if end_bytes > info.st_size:
            raise RegionError(
                f"memory region at {region.gpa:#x} ends at {end_bytes} of a file of {info.st_size} bytes"
            )
    elif not stat.S_ISCHR(info.st_mode):  # device DAX is a character device without a size
        raise RegionError(f"memory region at {region.gpa:#x}: its fd is neither a file nor a DAX device")


def check_overlap(region: MemoryRegion, others: Iterable[MemoryRegion]) -> None:
    """Refuse a region whose guest or front end addresses overlap another's. Raises `RegionError`."""
    for other in others:
        for name in ("gpa", "uva"):
            start, other_start = getattr(region, name), getattr(other, name)
            if start < other_start + other.size_bytes and other_start < start + region.size_bytes:
                raise RegionError(
                    f"memory region at {region.gpa:#x} overlaps that at {other.gpa:#x} ({name})"
                )
