"""The lock that keeps a snapshot from being removed while another overlay has it for a base.

It is an open file description lock (fcntl(2)) on one byte of the layer's `map`, far beyond its end: shared by
those that use the layer, asked for by who would remove it.
"""

import errno

from ringblk.shm.platform.file_locks import HAS_RECORD_LOCKS, NONE, READ, get_lock, set_lock

_LOCK_BYTE = 1 << 62


def use_snapshot(map_fd: int) -> None:
    """Keep a layer for as long as anybody has this descriptor open. Raises `OSError`."""
    if HAS_RECORD_LOCKS:
        try:
            set_lock(map_fd, READ, _LOCK_BYTE, 1)
        except OSError as error:
            if error.errno != errno.ENOLCK:  # a file system without locks
                raise


def is_snapshot_used(map_fd: int) -> bool:
    """Whether another overlay has a layer for its base now. Raises `OSError`."""
    if not HAS_RECORD_LOCKS:
        return False
    return get_lock(map_fd, _LOCK_BYTE, 1)[0] != NONE
