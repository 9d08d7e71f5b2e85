"""Space that a file has before anything is written to it, so that writing there cannot lack it."""

import os

from ringblk.workers.layers.map import can_give_space

_ZEROES = bytes(1 << 16)


def give_space(fd: int, given_bytes: int, all_bytes: int) -> None:
    """Give space to the first bytes; zeroes are written to all of the file where its file system cannot.

    Raises `OSError`.
    """
    if not can_give_space(fd, given_bytes):
        for offset in range(0, all_bytes, len(_ZEROES)):
            os.pwrite(fd, _ZEROES[: all_bytes - offset], offset)
