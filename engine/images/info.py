"""What an image is, without touching it: also while an engine has it open."""

import os
import stat
from pathlib import Path

import msgspec

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.format import COMPRESSIONS, QEMU_FORMATS, UNREADABLE, ImageFormat, find_container
from ringblk.engine.images.probe import check_is_image, read_ends, tell_format
from ringblk.engine.images.qemu_image import describe_image
from ringblk.workers.backends.direct_open import open_direct
from ringblk.workers.backends.image_lock import is_image_locked

UNKNOWN = "unknown"


class ImageInfo(msgspec.Struct):
    """An image. `size_bytes` is its content's (None for a compressed stream, which does not tell)."""

    path: str
    format: str  # one of FORMATS or UNREADABLE, or UNKNOWN: raw, for all that can be seen
    size_bytes: int | None
    file_bytes: int
    disk_bytes: int  # what the file takes up there
    direct: bool  # whether direct I/O is to be had
    alignment_bytes: int  # and what it is to be aligned to
    locked: bool  # by a running engine or another program
    outside_files: list[str]  # that the image continues in


def read_image_info(path: Path, image_format: ImageFormat | None) -> ImageInfo:
    """Look at an image. Raises OSError, and ImageError where QEMU's programs refuse it."""
    check_is_image(path)
    opened = open_direct(path, os.O_RDONLY, "auto")
    try:
        found = os.fstat(opened.fd)
        file_bytes = os.lseek(opened.fd, 0, os.SEEK_END)  # of a block device too
        locked = is_image_locked(opened.fd)
        head, tail = read_ends(opened.fd, file_bytes, opened.alignment_bytes)
    finally:
        os.close(opened.fd)
    told = image_format or _tell(path, head, tail)
    size_bytes: int | None = file_bytes
    outside_files: list[str] = []
    if told in QEMU_FORMATS:
        described = describe_image(path, told)
        size_bytes, outside_files = described.virtual_size_bytes, described.outside_files
    elif told in COMPRESSIONS or told in UNREADABLE:
        size_bytes = None
    return ImageInfo(
        path=str(path),
        format=told,
        size_bytes=size_bytes,
        file_bytes=file_bytes,
        disk_bytes=file_bytes if stat.S_ISBLK(found.st_mode) else found.st_blocks * 512,
        direct=opened.direct,
        alignment_bytes=opened.alignment_bytes,
        locked=locked,
        outside_files=outside_files,
    )


def _tell(path: Path, head: bytes, tail: bytes) -> str:
    """Name the format, one that is only known by sight too."""
    try:
        return tell_format(path, head, tail)
    except ImageError:
        container = find_container(head, tail)
        if container in UNREADABLE:
            return container
        if container is None:
            return UNKNOWN
        raise
