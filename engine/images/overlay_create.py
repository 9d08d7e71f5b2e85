"""Making an overlay on a base, without an engine."""

import os
from contextlib import ExitStack
from pathlib import Path

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay_hold import explained
from ringblk.engine.images.probe import check_is_image, read_ends, refuse_container
from ringblk.workers.backends.direct_open import open_direct
from ringblk.workers.backends.image_lock import ImageLocked, lock_image
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.layers.folder import base_identity
from ringblk.workers.layers.form import MAX_PATH_BYTES
from ringblk.workers.layers.overlay_folder import locked_overlay, make_folder, new_overlay, read_chain


def create_overlay(folder: str | os.PathLike[str], base: str, size_bytes: int | None) -> None:
    """Make an overlay on the raw image `base`, of its size where no other is given.

    Raises `ImageError`, `OSError`.
    """
    name = os.fspath(folder)
    path = os.path.realpath(os.fsencode(base))
    if len(path) > MAX_PATH_BYTES:
        raise ImageError(f"{base}: its path has more than {MAX_PATH_BYTES} bytes")
    check_is_image(Path(base))
    with ExitStack() as closing:
        opened = open_direct(base, os.O_RDONLY, "auto")
        closing.callback(os.close, opened.fd)
        try:
            lock_image(opened.fd, read_only=True)
        except ImageLocked:
            raise ImageError(f"{base}: another program writes to it: stop that first") from None
        base_bytes = os.lseek(opened.fd, 0, os.SEEK_END) // SECTOR_BYTES * SECTOR_BYTES
        refuse_container(*read_ends(opened.fd, base_bytes, opened.alignment_bytes))
        if not (size_bytes or base_bytes):
            raise ImageError(f"{base}: is empty: say how large the overlay is to be")
        make_folder(name)
        with explained(), locked_overlay(name) as folder_fd:
            if read_chain(folder_fd) is not None:
                raise ImageError(f"{name}: has an overlay already")
            new_overlay(name, folder_fd, size_bytes or base_bytes, base_identity(opened.fd, path, base_bytes))
