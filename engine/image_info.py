"""What an image is, without touching it: also while an engine has it open."""

import os
import stat
from pathlib import Path

import msgspec

from ringblk.engine.image_format import COMPRESSIONS, HEAD_BYTES, QEMU_FORMATS, ImageFormat
from ringblk.engine.image_probe import check_is_image, probe_image
from ringblk.engine.qemu_image import describe_image
from ringblk.workers.direct_open import open_direct
from ringblk.workers.image_lock import is_image_locked


class ImageInfo(msgspec.Struct):
    """An image. `size_bytes` is its content's (None for a compressed stream, which does not tell)."""

    path: str
    format: ImageFormat
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
    with path.open("rb", buffering=0) as file:
        told = image_format or probe_image(file.read(HEAD_BYTES))
        found = os.fstat(file.fileno())
        file_bytes = os.lseek(file.fileno(), 0, os.SEEK_END)  # of a block device too
        locked = is_image_locked(file.fileno())
    opened = open_direct(path, os.O_RDONLY, "auto")
    os.close(opened.fd)
    size_bytes: int | None = file_bytes
    outside_files: list[str] = []
    if told in QEMU_FORMATS:
        described = describe_image(path, told)
        size_bytes, outside_files = described.virtual_size_bytes, described.outside_files
    elif told in COMPRESSIONS:
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
