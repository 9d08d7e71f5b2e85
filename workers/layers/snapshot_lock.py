"""The lock that keeps a snapshot from being removed while another overlay has it for a base.

It is an open file description lock (fcntl(2)) on one byte of the layer's `map`, far beyond its end: shared by
those that use the layer, asked for by who would remove it.
"""

import errno
import fcntl
import os
import struct

_LOCK_BYTE = 1 << 62
_STRUCT_FLOCK = "hhqqi4x"  # l_type, l_whence, l_start, l_len, l_pid (must be 0)


def use_snapshot(map_fd: int) -> None:
    """Keep a layer for as long as anybody has this descriptor open. Raises `OSError`."""
    if hasattr(fcntl, "F_OFD_SETLK"):
        try:
            _set(map_fd, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno != errno.ENOLCK:  # a file system without locks
                raise


def is_snapshot_used(map_fd: int) -> bool:
    """Whether another overlay has a layer for its base now. Raises `OSError`."""
    if not hasattr(fcntl, "F_OFD_GETLK"):
        return False
    asked = struct.pack(_STRUCT_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _LOCK_BYTE, 1, 0)
    answer = struct.unpack(_STRUCT_FLOCK, fcntl.fcntl(map_fd, fcntl.F_OFD_GETLK, asked))
    return bool(answer[0] != fcntl.F_UNLCK)


def _set(map_fd: int, kind: int) -> None:
    fcntl.fcntl(map_fd, fcntl.F_OFD_SETLK, struct.pack(_STRUCT_FLOCK, kind, os.SEEK_SET, _LOCK_BYTE, 1, 0))
