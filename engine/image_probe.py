"""What an image whose format nobody has named may be: nothing that leads to other files as it is opened."""

import os
import stat
from pathlib import Path

from ringblk.engine.image_error import ImageError
from ringblk.engine.image_format import VMDK_DESCRIPTOR, ImageFormat, probe_format


def check_is_image(path: Path) -> None:
    """Raise ImageError for what cannot hold an image, OSError where there is nothing; opens nothing."""
    mode = os.stat(path).st_mode
    if stat.S_ISCHR(mode):
        raise ImageError("a character device is no image, and has no end: a pipe is read with -")
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise ImageError("a pipe or a socket is no image: it is read with - as standard input")


def probe_image(head: bytes) -> ImageFormat:
    """Tell the format from the first bytes. Raises ImageError for a vmdk that is a list of other files.

    qemu-img opens those before it says which they are, whatever they are: one that is a pipe hangs it.
    """
    if head.startswith(VMDK_DESCRIPTOR):
        raise ImageError("this vmdk image is a list of other files: --format vmdk allows that")
    return probe_format(head)
