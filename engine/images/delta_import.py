"""Applying a delta to an overlay: the snapshot that it makes is there whole, or nothing has changed."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

from ringblk.engine.images.delta_export import base_digest
from ringblk.engine.images.delta_form import DeltaDescription, DeltaReader
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay import OverlayImage
from ringblk.engine.images.overlay_hold import OverlayHold
from ringblk.engine.images.stream import CompressedReader
from ringblk.workers.layers.chain_form import NO_LAYER, ChainLayer
from ringblk.workers.layers.form import LAYER_BASE

Watch = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


def import_delta(delta: Path, folder: str, watch: Watch) -> ChainLayer:
    """Apply a delta to the overlay in a folder; the snapshot that is there then.

    The overlay must be what the delta was made from: so it has the snapshot, or the base with the same
    content, and its guest has written nothing since. Raises `ImageError`, `OSError`.
    """
    with ExitStack() as closing:
        file = closing.enter_context(delta.open("rb"))
        reader = DeltaReader(file)
        with OverlayImage(folder) as image:
            check_base(image, reader.description)
        hold = closing.enter_context(OverlayHold(folder))
        below = _below(hold, reader.description)
        layer = _layer(reader.description, below)
        stream = cast(BinaryIO, CompressedReader(file, "zstd"))
        with hold.filled(layer) as writer:
            for extent in reader.extents(stream):
                if extent.data is None:
                    writer.write_zeroes(extent.offset, extent.length)
                else:
                    writer.write(extent.offset, extent.data)
                watch(file.tell(), os.fstat(file.fileno()).st_size)
    return layer


def check_base(image: OverlayImage, description: DeltaDescription) -> None:
    """See that a delta since the base is for the base of this overlay. Raises `ImageError`, `OSError`."""
    wanted, base = description.base, image.chain.base
    if wanted is None:
        return
    if wanted.layer_id or base.kind == LAYER_BASE:
        if base.layer_id.hex() != wanted.layer_id:
            raise ImageError(f"{image.folder}: lies on another base than the delta was made for")
        return
    if image.base_fd is None or base.size_bytes != wanted.size_bytes:
        raise ImageError(
            f"{image.folder}: its base has {base.size_bytes} bytes; that of the delta had {wanted.size_bytes}"
        )
    if base_digest(image) != wanted.sha256:
        raise ImageError(f"{image.folder}: its base has not the content that the delta was made for")


def _below(hold: OverlayHold, description: DeltaDescription) -> bytes:
    """The layer that what the delta makes is to lie on. Raises `ImageError`."""
    chain, to = hold.chain, description.to
    if bytes.fromhex(to.layer_id) in chain.layers:
        raise ImageError(f"{hold.folder}: has what this delta makes already")
    if to.name and chain.snapshot(to.name) is not None:
        raise ImageError(f"{hold.folder}: has another snapshot {to.name!r}")
    below = NO_LAYER
    if description.since is not None:
        below = bytes.fromhex(description.since.layer_id)
        found = chain.layers.get(below)
        if found is None or not found.is_sealed:
            raise ImageError(
                f"{hold.folder}: has no snapshot {description.since.name!r} ({description.since.layer_id}),"
                " which this delta was made from: import what comes before it first"
            )
    elif description.base is None and not any(layer.has_no_base for layer in chain.layers.values()):
        raise ImageError(f"{hold.folder}: has a base, and the delta was made from an overlay without")
    if hold.top.below != below:
        raise ImageError(
            f"{hold.folder}: does not lie on what the delta was made from: reset it to that first"
        )
    with OverlayImage(hold.folder, is_watched=True) as image:
        if image.layers[0].states.own:
            raise ImageError(
                f"{hold.folder}: was written to since what the delta was made from: reset it to that first"
            )
    return below


def _layer(description: DeltaDescription, below: bytes) -> ChainLayer:
    to = description.to
    return ChainLayer(
        layer_id=bytes.fromhex(to.layer_id),
        below=below,
        size_bytes=to.size_bytes,
        name=to.name,
        sealed_ns=to.sealed_ns,
        is_sealed=True,
        is_settled=True,
        has_no_base=below == NO_LAYER and description.base is None,
    )
