"""Writing what has changed of a drive since a snapshot into a delta."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from ringblk.engine.images.delta_form import (
    DeltaBase,
    DeltaDescription,
    DeltaSnapshot,
    DeltaWriter,
)
from ringblk.engine.images.direct_io_file import DirectIoFile
from ringblk.engine.images.file_access import FileAccess, read_access
from ringblk.engine.images.overlay import ImagePiece, OverlayImage
from ringblk.engine.images.overlay_diff import changed_since, layers_since
from ringblk.engine.images.partial import PartialFile
from ringblk.engine.images.sink import compressed_stream
from ringblk.workers.layers.chain_form import ChainLayer
from ringblk.workers.layers.folder import DATA
from ringblk.workers.layers.form import LAYER_BASE

Watch = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


def export_delta(image: OverlayImage, since: str, target: Path, watch: Watch, *, replace: bool) -> int:
    """Write the delta from `since` (a snapshot or `BASE`) to the image's layer; its bytes of data.

    It is there whole or not at all. Raises `ImageError`, `ImageLocked`, `OSError`.
    """
    pieces = image.pieces(changed_since(image, since))
    total_bytes = sum(piece.length for piece in pieces)
    description = _description(image, since)
    partial = PartialFile(target, replace=replace, source=_access(image))
    try:
        file = DirectIoFile(partial.path)
        try:
            done_bytes = _write(
                file, DeltaWriter(description), image, pieces, lambda done: watch(done, total_bytes)
            )
            file.close()
        except BaseException:
            file.abandon()
            raise
        partial.commit()
    except BaseException:
        partial.discard()
        raise
    return done_bytes


def _write(
    file: DirectIoFile,
    writer: DeltaWriter,
    image: OverlayImage,
    pieces: list[ImagePiece],
    watch: Callable[[int], None],
) -> int:
    file.write(writer.head)
    stream = compressed_stream(file, "zstd")
    done_bytes = data_bytes = 0
    for span in image.spans(pieces):
        data = None if span.data is None or bytearray(len(span.data)) == span.data else span.data
        writer.extent(stream, span.offset_bytes, span.size_bytes, data)
        data_bytes += 0 if data is None else len(data)
        done_bytes += span.size_bytes
        watch(done_bytes)
    writer.end(stream)
    stream.close()
    return data_bytes


def _snapshot(layer: ChainLayer) -> DeltaSnapshot:
    """What says which state a layer is; a top, which may go on changing, is a state that nothing else is."""
    layer_id = layer.layer_id if layer.is_sealed else secrets.token_bytes(len(layer.layer_id))
    return DeltaSnapshot(layer_id.hex(), layer.name, layer.size_bytes, layer.sealed_ns)


def _description(image: OverlayImage, since: str) -> DeltaDescription:
    to = _snapshot(image.layers[0].layer)
    path = layers_since(image, since)
    own = [each.layer for each in image.layers if each.overlay == image.folder]
    if len(path) < len(own):
        return DeltaDescription(to, since=_snapshot(own[len(path)]))
    if own[-1].has_no_base:
        return DeltaDescription(to)
    base = image.chain.base
    if base.kind == LAYER_BASE:
        return DeltaDescription(to, base=DeltaBase(base.size_bytes, layer_id=base.layer_id.hex()))
    return DeltaDescription(to, base=DeltaBase(base.size_bytes, sha256=base_digest(image)))


def base_digest(image: OverlayImage) -> str:
    """The SHA-256 of what the base of an image holds. Raises `OSError`."""
    digest, size_bytes = hashlib.sha256(), image.chain.base.size_bytes
    for span in image.spans([ImagePiece(0, size_bytes, image.base_fd, size_bytes)]):
        digest.update(span.data if span.data is not None else b"")
    return digest.hexdigest()


def _access(image: OverlayImage) -> FileAccess:
    return read_access(os.path.join(image.folder, image.layers[0].layer.folder, DATA))
