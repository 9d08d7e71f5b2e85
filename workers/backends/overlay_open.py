"""Opening a base and the layer on it: what does not fit together is refused here."""

import logging
import os
from collections.abc import Callable

from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.image_lock import ImageLock, ImageLocked
from ringblk.workers.backends.interface import BackendError, BaseImageError
from ringblk.workers.layers.chain_form import Chain
from ringblk.workers.layers.folder import DATA, LayerFiles, base_change, base_identity, open_layer
from ringblk.workers.layers.form import BaseIdentity, LayerDamaged
from ringblk.workers.layers.overlay_folder import (
    check_layer,
    locked_overlay,
    make_folder,
    new_overlay,
    opened_layer,
    read_chain,
)

_log = logging.getLogger(__name__)


class LayerLock(ImageLock):
    """The lock of a layer's data, which one engine has for good: with it the layer's map is taken up."""

    def __init__(self, fd: int, take_up: Callable[[], None]) -> None:
        super().__init__(fd, read_only=False)
        self._take_up = take_up

    @property
    def can_be_given_up(self) -> bool:
        """Another host has a live map of its own."""
        return False

    def lock(self) -> None:
        """As `ImageLock.lock`; raises `BackendError` as well, where the layer is damaged."""
        try:
            super().lock()
        except OSError:  # there are no locks, and the engine goes on without
            self._take_up()
            raise
        self._take_up()


def open_base(path: str | os.PathLike[str], direct: DirectMode) -> FileBackend:
    """The base, read-only, and locked against who would write to it. Raises `BaseImageError`."""
    name = os.fspath(path)
    if os.path.isdir(path):
        raise BaseImageError(f"{name}: is a folder: a base is a raw image or a block device, no overlay")
    try:
        base = FileBackend(path, read_only=True, direct=direct)
    except BackendError as error:
        raise BaseImageError(str(error)) from error
    try:
        base.image_lock().lock()
    except ImageLocked:
        base.close()
        raise BaseImageError(f"{name}: another program writes to it: stop that first") from None
    except OSError as error:
        _log.warning("%s: cannot be locked: %s; nothing keeps writers off it", name, error.strerror or error)
    return base


def open_files(
    base: FileBackend, base_path: str | os.PathLike[str], folder: str, size_bytes: int | None
) -> LayerFiles:
    """The top layer's descriptors; an overlay is made where there is none. Raises `BackendError`."""
    try:
        now = base_identity(base.fd, os.path.realpath(os.fsencode(base_path)), base.size_bytes)
        make_folder(folder)
        with locked_overlay(folder) as folder_fd:
            chain = read_chain(folder_fd)
            if chain is None:
                chain = new_overlay(folder, folder_fd, size_bytes or base.size_bytes, now)
            files = _open_top(folder_fd, chain)
    except LayerDamaged as error:
        raise BackendError(f"{folder}: {error}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise BackendError(f"{folder}: can't open it: {reason or error}") from error
    try:
        _check(files, folder, now, size_bytes)
    except BaseException:
        files.close()
        raise
    return files


def _open_top(folder_fd: int, chain: Chain) -> LayerFiles:
    """Raises `LayerDamaged`, `OSError`."""
    top, *below = chain.branch()
    if below:
        raise LayerDamaged("has several layers, and this program opens one")
    with opened_layer(folder_fd, top) as layer_fd:
        files = open_layer(layer_fd)
    try:
        check_layer(files.superblock, top)
    except BaseException:
        files.close()
        raise
    return files


def open_data(folder: str, direct: DirectMode) -> FileBackend:
    """The layer's blocks. Raises `BackendError`."""
    return FileBackend(os.path.join(folder, DATA), direct=direct)


def _check(files: LayerFiles, folder: str, now: BaseIdentity, size_bytes: int | None) -> None:
    """See that the base is what it was, and the drive as large as it is to be. Raises `BackendError`."""
    superblock = files.superblock
    change = base_change(superblock.base, now)
    if change is not None:
        raise BaseImageError(
            f"{os.fsdecode(now.path)}: is not as it was when the overlay {folder} was made on it: {change};"
            " what the overlay has was not made for it"
        )
    if size_bytes is not None and size_bytes != superblock.size_bytes:
        raise BackendError(f"{folder}: has {superblock.size_bytes} bytes, not {size_bytes}")
