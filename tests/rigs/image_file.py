"""Image files for backends."""

import os
from pathlib import Path

MIB = 1 << 20


def make_image(directory: Path, size_bytes: int) -> Path:
    """A file of zeroes in a directory."""
    path = directory / "image"
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def has_o_direct(fd: int) -> bool:
    """Whether I/O on a descriptor goes past the page cache."""
    flags = Path(f"/proc/self/fdinfo/{fd}").read_text().split("flags:")[1].split()[0]
    return bool(int(flags, 8) & os.O_DIRECT)
