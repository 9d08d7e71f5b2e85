"""The lock of a rate group, held by a process that is no member."""

import fcntl
import os
import struct

import posix_ipc

WHOLE_FILE = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def lock_group(group: str) -> int:
    """The record lock that members take for a moment; it goes when the descriptor is closed."""
    fd: int = posix_ipc.SharedMemory(f"/ringblk-rate-{group}").fd
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, WHOLE_FILE)
    return fd
