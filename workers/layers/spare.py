"""Space that an overlay keeps for a reset: on a full disk one needs some before it gives any back.

A new top and a new chain are on the disk before the former top goes. The file `spare` has as much space as
they take; whoever resets on a full disk removes it first. Nothing is ever read from it.
"""

import contextlib
import os

from ringblk.workers.layers.chain_form import Chain
from ringblk.workers.layers.folder import FILE_MODE
from ringblk.workers.layers.form import LiveLayout
from ringblk.workers.layers.given_space import give_space

SPARE = "spare"
_BLOCK_BYTES = 4096
_OTHER_BLOCKS = 4
"""A superblock, a folder, and what a file system needs to find the rest."""


def keep_spare(folder_fd: int, chain: Chain) -> None:
    """Have one, as large as is needed now, if there is space for it."""
    size_bytes = max(layer.size_bytes for layer in chain.layers.values())
    chain_blocks = -(-len(chain.encode()) // _BLOCK_BYTES)
    other_bytes = (_OTHER_BLOCKS + chain_blocks) * _BLOCK_BYTES
    layout = LiveLayout.of(size_bytes)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(OSError):
        fd = os.open(SPARE, flags, FILE_MODE, dir_fd=folder_fd)
        try:
            if os.fstat(fd).st_blocks * 512 < layout.file_bytes + other_bytes:
                give_space(fd, layout.words_offset + other_bytes, layout.file_bytes + other_bytes)
        finally:
            os.close(fd)


def give_spare(folder_fd: int) -> bool:
    """Give its space back; False: there is none. Raises `OSError`."""
    try:
        os.unlink(SPARE, dir_fd=folder_fd)
    except FileNotFoundError:
        return False
    return True
