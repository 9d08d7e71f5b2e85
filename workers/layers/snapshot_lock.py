"""The locks that keep layers from being removed while another overlay has them below it.

They are open file description locks (fcntl(2)) on one byte of a layer's `map`, far beyond its end: shared by
those that use the layer, asked for by who would remove it. One byte is for the snapshot that is the base. The
other is for an overlay's first layer below that: its `data` cannot simply lose its name, as other layers' do
(`remove_layer`), so they stay as they are while anybody has that byte.
"""

import errno

from ringblk.shm.platform.file_locks import HAS_RECORD_LOCKS, NONE, READ, get_lock, set_lock

_LOCK_BYTE = 1 << 62
_FIRST_BYTE = _LOCK_BYTE + 1


def use_snapshot(map_fd: int) -> None:
    """Keep a layer for as long as anybody has this descriptor open. Raises `OSError`."""
    _share(map_fd, _LOCK_BYTE)


def use_first_layer(map_fd: int) -> None:
    """Keep the files of an overlay's first layer, whatever becomes of the layer. Raises `OSError`."""
    _share(map_fd, _FIRST_BYTE)


def _share(map_fd: int, byte: int) -> None:
    if HAS_RECORD_LOCKS:
        try:
            set_lock(map_fd, READ, byte, 1)
        except OSError as error:
            if error.errno != errno.ENOLCK:  # a file system without locks
                raise


def is_snapshot_used(map_fd: int) -> bool:
    """Whether another overlay has a layer for its base now. Raises `OSError`."""
    if not HAS_RECORD_LOCKS:
        return False
    return get_lock(map_fd, _LOCK_BYTE, 1)[0] != NONE


def is_first_layer_used(map_fd: int) -> bool:
    """Whether anybody else reads the first layer, as a snapshot or below one. Raises `OSError`."""
    return is_snapshot_used(map_fd) or (HAS_RECORD_LOCKS and get_lock(map_fd, _FIRST_BYTE, 1)[0] != NONE)
