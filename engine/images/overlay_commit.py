"""Writing what an overlay has down into its base, which is another image from then on."""

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack

import msgspec

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay import ImagePiece, OverlayImage
from ringblk.engine.images.overlay_base import RawBase
from ringblk.engine.images.overlay_hold import OverlayHold
from ringblk.shm.platform.shared_memory import reserve
from ringblk.workers.layers.chain_form import NO_LAYER, Chain
from ringblk.workers.layers.folder import BEING_WRITTEN_NS, base_change
from ringblk.workers.layers.form import LAYER_BASE, SOURCE_BASE
from ringblk.workers.layers.overlay_folder import new_layer

Watch = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


def commit(folder: str, watch: Watch) -> int:
    """Write all that an overlay has into its base, and have it lie on that, empty; the bytes written.

    Whoever else has the base finds it changed, and refuses it. After a kill no engine starts on the overlay
    until `commit` was run again, which goes on. Raises `ImageError`, `OSError`.
    """
    with ExitStack() as closing:
        hold = closing.enter_context(OverlayHold(folder))
        chain = hold.chain
        if len(chain.layers) > 1 or hold.top.below != NO_LAYER:
            raise ImageError(f"{folder}: has snapshots, which would change with the base: delete them first")
        if hold.top.has_no_base or chain.base.kind in (LAYER_BASE, SOURCE_BASE):
            raise ImageError(f"{folder}: lies on no image that could be written to")
        base = RawBase(os.fsdecode(chain.base.path), is_written=True)
        closing.callback(base.close)
        _check_base(folder, chain, base)
        if base.size_bytes < hold.top.size_bytes:
            raise ImageError(f"{folder}: is larger than its base, {base.size_bytes} bytes: export it instead")
        image = closing.enter_context(OverlayImage(folder, is_watched=True, base_may_differ=True))
        (layer,) = image.layers
        pieces = image.pieces(layer.states.own)
        hold.put(_with_base_time(chain, BEING_WRITTEN_NS))
        _give_space(hold, base, pieces)
        written = _write_down(image, pieces, base, watch)
        os.fsync(base.fd)
        chain = msgspec.structs.replace(hold.chain.changed(), base=base.identity)
        top = new_layer(hold.folder_fd, chain, NO_LAYER, hold.top.size_bytes)
        hold.put(
            msgspec.structs.replace(
                hold.chain.changed(top, without=(hold.chain.top,), top=top.layer_id), base=base.identity
            )
        )
    return written


def _with_base_time(chain: Chain, modified_ns: int) -> Chain:
    base = msgspec.structs.replace(chain.base, modified_ns=modified_ns)
    return msgspec.structs.replace(chain.changed(), base=base)


def _check_base(folder: str, chain: Chain, base: RawBase) -> None:
    """See that it is the overlay's base, or that with what a commit of it has begun to write."""
    was, now = chain.base, base.identity
    if was.modified_ns == BEING_WRITTEN_NS:
        now = msgspec.structs.replace(now, modified_ns=BEING_WRITTEN_NS)
    change = base_change(was, now)
    if change is not None:
        raise ImageError(f"{folder}: its base is not as it was when the overlay was made on it: {change}")


def _give_space(hold: OverlayHold, base: RawBase, pieces: list[ImagePiece]) -> None:
    """Find a full disk before anything is written: the base is what it was then, at another time."""
    if not stat.S_ISREG(os.fstat(base.fd).st_mode):
        return
    try:
        for piece in pieces:
            reserve(base.fd, piece.offset, piece.length)
    except OSError:
        hold.put(_with_base_time(hold.chain, base.identity.modified_ns))
        raise


def _write_down(image: OverlayImage, pieces: list[ImagePiece], base: RawBase, watch: Watch) -> int:
    written, total_bytes = 0, sum(piece.length for piece in pieces)
    for span in image.spans(pieces):
        data, at = memoryview(bytes(span.size_bytes) if span.data is None else span.data), span.offset_bytes
        while data:
            count = os.pwrite(base.fd, data, at)
            data, at = data[count:], at + count
        written += span.size_bytes
        watch(written, total_bytes)
    return written
