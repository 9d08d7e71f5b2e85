"""An overlay goes from one engine to another while both have it open: its guest moves.

Who takes it opens all of its layers anew: the other engine may have changed which there are, and a map that
another host has written is not to be had from what this one has seen of it. The descriptor that is locked
stays, since that lock is the fence. Layers have numbers that none had before: processes keep what has the
same name.
"""

import os

import msgspec

from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.image_lock import ImageLock
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.layered import LayeredBackend
from ringblk.workers.backends.open_storage import OpenOverlay
from ringblk.workers.backends.overlay_base import OpenBase, check_base, open_base
from ringblk.workers.backends.overlay_changes import MAX_NUMBER, OverlayChange
from ringblk.workers.backends.overlay_open import close_all, open_layers
from ringblk.workers.layers.chain_form import Chain
from ringblk.workers.layers.form import LayerDamaged, Superblock
from ringblk.workers.layers.live import attach
from ringblk.workers.layers.overlay_folder import locked_overlay, read_known_chain


def take_up(backend: LayeredBackend, direct: DirectMode) -> OverlayChange:
    """What is to be open from now on, once the overlay is held.

    Raises `BackendError`, and `ImageLocked` while something that the engine before has begun is under way.
    """
    folder = backend.folder
    fds: dict[str, int] = {}
    try:
        with locked_overlay(folder) as folder_fd:
            chain = read_known_chain(folder_fd)
        backend.prepare(chain)
        with locked_overlay(folder) as folder_fd:
            chain = read_known_chain(folder_fd)
            found = _open(folder_fd, folder, chain, direct, fds, _highest_number(backend.found))
        _have_top(backend, found, chain, fds)
    except LayerDamaged as error:
        close_all(fds)
        raise BackendError(f"{folder}: {error}") from None
    except OSError as error:
        close_all(fds)
        raise BackendError(f"{folder}: can't open it: {error.strerror or error}") from error
    except BaseException:
        close_all(fds)
        raise
    return OverlayChange(msgspec.structs.replace(found, is_taken_up=True), fds, chain, is_told_anew=True)


def _highest_number(found: OpenOverlay) -> int:
    index_number = 0 if found.index is None else found.index.number
    return max(found.top.number, index_number, *(layer.number for layer in found.below), 0)


def _open(
    folder_fd: int, folder: str, chain: Chain, direct: DirectMode, fds: dict[str, int], after: int
) -> OpenOverlay:
    """All of its layers, and what they lie on. Raises as `open_layers`."""
    if after + len(chain.layers) > MAX_NUMBER:
        raise LayerDamaged(f"its layers have changed {MAX_NUMBER} times: start its drive anew")
    below = [(folder, each) for each in list(chain.branch())[1:]]
    base: OpenBase | None = None
    if not list(chain.branch())[-1].has_no_base:
        base = open_base(os.fsdecode(chain.base.path), direct, layer_id=chain.base.layer_id)
    try:
        if base is not None:
            check_base(folder, chain.base, base.identity)
        return open_layers(folder_fd, folder, chain, below, base, direct, fds, after)
    finally:
        if base is not None:
            base.close()


def _have_top(backend: LayeredBackend, found: OpenOverlay, chain: Chain, fds: dict[str, int]) -> None:
    """Lock the top's data, and have its map. Raises `ImageLocked`, `LayerDamaged`, `OSError`."""
    name = f"data {found.top.number}"
    if chain.layers[chain.top].is_first:  # which is what is locked, and opened as all data are
        os.close(fds[name])
        fds[name] = os.dup(backend.lock_fd)
    else:
        ImageLock(fds[name], read_only=False).lock()
    superblock = Superblock(layer_id=found.top.layer_id, size_bytes=found.top.size_bytes, base=chain.base)
    map_fd, live_fd, data_fd = (fds[f"{file} {found.top.number}"] for file in ("map", "live", "data"))
    attach(map_fd, live_fd, data_fd, superblock)
