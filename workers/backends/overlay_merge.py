"""Layers that are merged: what lies below a layer is copied into it, until it needs that no more.

What anybody reads stays the same at any moment, so requests go on. A kill at any moment does no harm: what
was copied is found by the next attempt. Only settled layers are written to; no guest writes to these.
"""

import mmap
import os
import time
from collections.abc import Callable

import msgspec

from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.backends.overlay_base import open_base
from ringblk.workers.backends.overlay_open import OpenedOverlay, close_all, open_layers
from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.folder import LIVE
from ringblk.workers.layers.form import BLOCK_BYTES, block_count
from ringblk.workers.layers.overlay_folder import locked_overlay, opened_layer

_PIECE_BLOCKS = 256
_FLUSH_BYTES = 256 << 20
"""What is copied before it is brought to the disk: a kill of the host costs no more than that."""


class MergeStopped(Exception):  # noqa: N818
    """It was told to stop."""


class MergeProgress(msgspec.Struct):
    """How far a merge has come; written by it, read by anyone."""

    bps: int
    """Bytes a second that it may copy; 0: as many as it can."""
    done_bytes: int = 0
    """Of the drive, that were looked at."""
    total_bytes: int = 0
    copied_bytes: int = 0
    is_stopped: bool = False


def merge(
    folder: str,
    chain: Chain,
    upper: ChainLayer,
    lower: ChainLayer | None,
    direct: DirectMode,
    progress: MergeProgress,
) -> None:
    """Copy a layer into the one that lies on it; `lower` None: all that the overlay lies on, into its lowest.

    Raises `MergeStopped`, `BackendError`, `LayerDamaged`, `OSError`.
    """
    backend = _open(folder, chain, upper, lower, direct)
    try:
        backend.take_up()
        _copy(backend, with_base=lower is None, progress=progress)
        backend.flush()
        os.fsync(backend.fd_of(f"map {backend.found.top.number}"))
    finally:
        backend.close()


def _open(
    folder: str, chain: Chain, upper: ChainLayer, lower: ChainLayer | None, direct: DirectMode
) -> OverlayBackend:
    """The upper layer as a top, with a live map that is in memory alone, on what is to be copied."""
    fds: dict[str, int] = {}
    alone = msgspec.structs.replace(chain, top=upper.layer_id)
    base = None
    if lower is None:
        base = open_base(os.fsdecode(chain.base.path), direct, layer_id=chain.base.layer_id)
    try:
        with locked_overlay(folder) as folder_fd:
            below = [] if lower is None else [(folder, lower)]
            found = open_layers(folder_fd, folder, alone, below, base, direct, fds)
            with opened_layer(folder_fd, upper) as layer_fd:
                os.unlink(LIVE, dir_fd=layer_fd)
        os.close(fds[f"live {found.top.number}"])
        fds[f"live {found.top.number}"] = make_unnamed("ringblk-merge", 0)
        if lower is not None:  # what neither layer has is not looked for
            found = msgspec.structs.replace(found, base_bytes=found.size_bytes)
        return OverlayBackend.of(OpenedOverlay(found, fds, alone))
    except BaseException:
        close_all(fds)
        raise
    finally:
        if base is not None:
            base.close()


def _copy(backend: OverlayBackend, *, with_base: bool, progress: MergeProgress) -> None:
    end = block_count(backend.size_bytes)
    progress.total_bytes = end * BLOCK_BYTES
    pace = _pacing(progress)
    unflushed_bytes = 0
    with mmap.mmap(-1, _PIECE_BLOCKS * BLOCK_BYTES) as memory, memoryview(memory) as buffer:
        for first in range(0, end, _PIECE_BLOCKS):
            if progress.is_stopped:
                raise MergeStopped
            until = min(end, first + _PIECE_BLOCKS)
            copied_bytes = backend.copy_up(first, until, buffer, with_base)
            progress.done_bytes = until * BLOCK_BYTES
            progress.copied_bytes += copied_bytes
            unflushed_bytes += copied_bytes
            if unflushed_bytes >= _FLUSH_BYTES:
                backend.flush()
                unflushed_bytes = 0
            pace(copied_bytes)


def _pacing(progress: MergeProgress) -> Callable[[int], None]:
    """Waits as long as the rate asks for after so many bytes; one that changes counts from that moment on."""
    ahead_bytes = 0.0
    at_s = time.monotonic()

    def pace(copied_bytes: int) -> None:
        nonlocal ahead_bytes, at_s
        ahead_bytes += copied_bytes
        while not progress.is_stopped and (bps := progress.bps):
            now_s = time.monotonic()
            # What was not copied in a tenth of a second may be caught up on.
            ahead_bytes = max(ahead_bytes - (now_s - at_s) * bps, -0.1 * bps)
            at_s = now_s
            if ahead_bytes <= 0:
                return
            time.sleep(min(ahead_bytes / bps, 0.1))
        ahead_bytes, at_s = 0.0, time.monotonic()

    return pace
