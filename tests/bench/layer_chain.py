"""Chains of layers to be measured."""

import random
from pathlib import Path

from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.backends.overlay_changes import OverlayChanger

DRIVE_BYTES = 256 << 20
PIECE_BYTES = 1 << 20


def make_layers(
    base: Path,
    folder: Path,
    layer_count: int,
    size_bytes: int = DRIVE_BYTES,
    stride_bytes: int = PIECE_BYTES,
    piece_bytes: int = PIECE_BYTES,
) -> None:
    """An overlay with a piece in its layers every so many bytes, those of each layer here and there."""
    backend = OverlayBackend(base, folder)
    backend.image_lock().lock()
    changer = OverlayChanger(backend, "auto")
    chance = random.Random(1)
    pieces = list(range(0, size_bytes, stride_bytes))
    chance.shuffle(pieces)
    data = chance.randbytes(piece_bytes)
    for number in range(layer_count):
        for offset in pieces[number::layer_count]:
            backend.write_at(offset, data)
        if number + 1 < layer_count:
            changer.settle()
            change = changer.seal(f"number {number}")
            changer.write(change.chain)
            backend.use(change.found, change.fds)
    changer.settle()
    backend.close()
