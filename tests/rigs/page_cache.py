"""What the kernel keeps of a file in memory."""

import ctypes
import mmap
import os
from pathlib import Path


def cached_bytes(path: Path) -> int:
    """How much of the file is in the page cache, by mincore(2)."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = ctypes.create_string_buffer(-(-len(mapped) // mmap.PAGESIZE))
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapped)), pages
        )
        assert failed == 0, os.strerror(ctypes.get_errno())
        del first
        return sum(page & 1 for page in pages.raw) * mmap.PAGESIZE
