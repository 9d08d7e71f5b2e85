"""Making an overlay on a base, without an engine."""

import os
from contextlib import ExitStack, closing
from pathlib import Path

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay_hold import explained
from ringblk.engine.images.probe import check_is_image, read_ends, refuse_container
from ringblk.workers.backends.direct_open import open_direct
from ringblk.workers.backends.image_lock import ImageLocked, lock_image
from ringblk.workers.backends.interface import BaseImageError
from ringblk.workers.backends.overlay_base import open_base
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.layers.folder import base_identity
from ringblk.workers.layers.form import MAX_PATH_BYTES, BaseIdentity
from ringblk.workers.layers.overlay_folder import locked_overlay, make_folder, new_overlay, read_chain


def create_overlay(
    folder: str | os.PathLike[str], base: str, size_bytes: int | None, snapshot: str | None = None
) -> None:
    """Make an overlay on the raw image `base`, or on a snapshot of the overlay in that folder.

    It has the base's size where no other is given. Raises `ImageError`, `OSError`.
    """
    path = os.path.realpath(os.fsencode(base))
    if len(path) > MAX_PATH_BYTES:
        raise ImageError(f"{base}: its path has more than {MAX_PATH_BYTES} bytes")
    if os.path.isdir(base):
        try:
            opened = open_base(base, "auto", snapshot)
        except BaseImageError as error:
            raise ImageError(str(error)) from None
        with closing(opened):
            _make(os.fspath(folder), opened.identity, size_bytes)
        return
    if snapshot is not None:
        raise ImageError(f"{base}: has no snapshots: it is no folder of an overlay")
    check_is_image(Path(base))
    with ExitStack() as stack:
        image = open_direct(base, os.O_RDONLY, "auto")
        stack.callback(os.close, image.fd)
        try:
            lock_image(image.fd, read_only=True)
        except ImageLocked:
            raise ImageError(f"{base}: another program writes to it: stop that first") from None
        base_bytes = os.lseek(image.fd, 0, os.SEEK_END) // SECTOR_BYTES * SECTOR_BYTES
        refuse_container(*read_ends(image.fd, base_bytes, image.alignment_bytes))
        if not (size_bytes or base_bytes):
            raise ImageError(f"{base}: is empty: say how large the overlay is to be")
        _make(os.fspath(folder), base_identity(image.fd, path, base_bytes), size_bytes)


def _make(name: str, base: BaseIdentity, size_bytes: int | None) -> None:
    make_folder(name)
    with explained(), locked_overlay(name) as folder_fd:
        if read_chain(folder_fd) is not None:
            raise ImageError(f"{name}: has an overlay already")
        new_overlay(name, folder_fd, size_bytes or base.size_bytes, base)
