"""Opening a layer that nobody else has: its live map as it stands, or made anew of what the disk has."""

import errno
import os
import struct

from ringblk.shm.platform.kernel_files import boot_id
from ringblk.workers.layers.form import LIVE_MAGIC, VERSION, LiveLayout, Superblock
from ringblk.workers.layers.given_space import give_space
from ringblk.workers.layers.journal import LayerJournal
from ringblk.workers.layers.map import LayerMap

_HEAD = struct.Struct("<8sII16s16sQ")


def attach(map_fd: int, live_fd: int, data_fd: int, superblock: Superblock) -> tuple[LayerMap, LayerJournal]:
    """The live map, and what saves it. Nobody else has the layer open. Raises `LayerDamaged`, `OSError`.

    A live map of this boot has all that any process has set, whatever became of that process. Of one of an
    earlier boot, any part may have reached the disk: the map on the disk and its journal count then.
    """
    boot_id = this_boot()
    if _counts(live_fd, superblock, boot_id):
        live_map = LayerMap(live_fd, superblock.size_bytes)
        journal = LayerJournal(map_fd, live_map, superblock.size_bytes, superblock.layer_id)
        live_map.distrust()
        if live_map.is_broken:
            journal.repair(data_fd)
        return live_map, journal
    layout = LiveLayout.of(superblock.size_bytes)
    os.ftruncate(live_fd, 0)
    os.ftruncate(live_fd, layout.file_bytes)
    give_space(live_fd, layout.words_offset, layout.file_bytes)
    live_map = LayerMap(live_fd, superblock.size_bytes)
    journal = LayerJournal(map_fd, live_map, superblock.size_bytes, superblock.layer_id)
    journal.recover()
    live_map.begin(boot_id, superblock.layer_id, superblock.size_bytes)
    return live_map, journal


def counts_in_this_boot(live_fd: int, superblock: Superblock) -> bool:
    """Whether a live map has all that was set: of this boot, of this layer, whole. Raises `OSError`."""
    return _counts(live_fd, superblock, this_boot())


def _counts(live_fd: int, superblock: Superblock, boot_id: bytes) -> bool:
    """Whether a live map is of this boot, of this layer, and whole."""
    if os.fstat(live_fd).st_size != LiveLayout.of(superblock.size_bytes).file_bytes:
        return False
    found = _HEAD.unpack(os.pread(live_fd, _HEAD.size, 0))
    return found == (LIVE_MAGIC, VERSION, 1, boot_id, superblock.layer_id, superblock.size_bytes)


def this_boot() -> bytes:
    """What tells this boot of the host from all others. Raises `OSError`."""
    found = boot_id()
    if not found:
        raise OSError(errno.ENOENT, "this system does not tell one boot from another")
    return found
