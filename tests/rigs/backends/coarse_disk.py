"""A file whose direct I/O is by blocks of 4096 bytes, whatever its file system says."""

import os
from pathlib import Path

from ringblk.workers.backends import direct_io
from ringblk.workers.backends.direct_io import Alignment
from ringblk.workers.backends.file import FileBackend


def coarse_disk(path: Path) -> FileBackend:
    find_alignment = direct_io.find_alignment
    direct_io.find_alignment = lambda fd: Alignment(4096, 512)
    try:
        return FileBackend(os.fspath(path), direct="on")
    finally:
        direct_io.find_alignment = find_alignment
