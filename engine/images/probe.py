"""What an image whose format nobody has named may be.

Nothing that leads to other files as it is opened, and no container that would be taken for a raw image.
"""

import os
import stat
from mmap import mmap
from pathlib import Path
from typing import cast

from ringblk.engine.images.error import ContainerFound, ImageError
from ringblk.engine.images.format import (
    CONTAINER_HEAD_BYTES,
    HEAD_BYTES,
    TAIL_BYTES,
    UNREADABLE,
    VMDK_DESCRIPTOR,
    ImageFormat,
    content_format_of_name,
    find_container,
    find_trailer,
    format_of_name,
    is_disk,
)


def check_is_image(path: Path) -> None:
    """Raise ImageError for what cannot hold an image, OSError where there is nothing; opens nothing."""
    mode = os.stat(path).st_mode
    if stat.S_ISCHR(mode):
        raise ImageError("a character device is no image, and has no end: a pipe is read with -")
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise ImageError("a pipe or a socket is no image: it is read with - as standard input")


def read_ends(fd: int, size_bytes: int, alignment_bytes: int) -> tuple[bytes, bytes]:
    """Return the first HEAD_BYTES and the last TAIL_BYTES of a file, or all. Raises OSError."""
    tail_bytes = min(TAIL_BYTES, size_bytes)
    head = _read_at(fd, 0, min(HEAD_BYTES, size_bytes), alignment_bytes)
    return head, _read_at(fd, size_bytes - tail_bytes, tail_bytes, alignment_bytes)


def _read_at(fd: int, offset_bytes: int, size_bytes: int, alignment_bytes: int) -> bytes:
    """Read past the page cache: whole blocks around what is wanted, into aligned memory."""
    before_bytes = offset_bytes % alignment_bytes
    wanted_bytes = before_bytes + size_bytes
    asked_bytes = wanted_bytes + -wanted_bytes % alignment_bytes
    buffer = memoryview(mmap(-1, max(asked_bytes, 1)))
    filled_bytes = 0
    while filled_bytes < wanted_bytes:
        part = buffer[filled_bytes:asked_bytes]
        read_bytes = os.preadv(fd, [part], offset_bytes - before_bytes + filled_bytes)
        if filled_bytes + read_bytes < wanted_bytes:
            read_bytes -= read_bytes % alignment_bytes
        if read_bytes == 0:
            break  # it got shorter
        filled_bytes += read_bytes
    return bytes(buffer[before_bytes:wanted_bytes])


def tell_format(path: Path, head: bytes, tail: bytes) -> ImageFormat:
    """Tell the format of the file at `path` by its ends (`read_ends`), and by its name whether it is raw.

    Raises ImageError for what is not recognised, cannot be read here, or is a list of other files: qemu-img
    opens those before it says which they are, whatever they are, and one that is a pipe hangs it.
    """
    container = find_container(head, tail)
    if container is None:
        if is_disk(head) or format_of_name(path) == "raw" or stat.S_ISBLK(os.stat(path).st_mode):
            return "raw"
        raise ImageError(f"{_NOT_RECOGNISED}: --format raw takes it as it is")
    if container in UNREADABLE:
        raise ImageError(
            f"this is a {container} file: {UNREADABLE[container]}; --format raw takes it as it is"
        )
    if head.startswith(VMDK_DESCRIPTOR):
        raise ImageError("this vmdk image is a list of other files: --format vmdk allows that")
    return cast(ImageFormat, container)


_NOT_RECOGNISED = (
    "neither its beginning (no partition table, no known file system) nor its name says what it is"
)


def refuse_container(head: bytes, tail: bytes) -> None:
    """Raise ContainerFound for a container, where only a raw image will do."""
    container = find_container(head[:CONTAINER_HEAD_BYTES], tail)
    if container is not None:
        advice = UNREADABLE.get(container, "`ringblk image import` makes one of it")
        raise ContainerFound(f"this {container} file is no raw image: {advice}")


class ContentProbe:
    """Looks at the content of a stream as it goes by: it must be a raw image, and seen to be one."""

    def __init__(self, name: str | None, image_format: ImageFormat) -> None:
        """Judge what a stream in `image_format` holds; `name` is its file's, if it is one."""
        self._is_named_raw = name is not None and content_format_of_name(name) == "raw"
        self._insist = f"--format {image_format} takes it as it is"
        self._holds = "it" if image_format == "raw" else f"what its {image_format} stream holds"
        self._tail = b""
        self._is_begun = False

    def follow(self, data: memoryview) -> None:
        """Look at what comes next, HEAD_BYTES or all of it at first. Raises ImageError for no raw image."""
        if not self._is_begun:
            self._is_begun = True
            head = bytes(data[:HEAD_BYTES])
            self._refuse(find_container(head, b""))
            if not is_disk(head) and not self._is_named_raw:
                raise ImageError(f"nothing in {self._holds} says what it is: {self._insist}")
        self._tail = (self._tail + bytes(data[-TAIL_BYTES:]))[-TAIL_BYTES:]

    def end(self) -> None:
        """The stream has ended. Raises ImageError where that shows that it was a container."""
        self._refuse(find_trailer(self._tail))

    def _refuse(self, container: str | None) -> None:
        if container is not None:
            raise ImageError(f"{self._holds} is a {container} file: make a file of it first; {self._insist}")
