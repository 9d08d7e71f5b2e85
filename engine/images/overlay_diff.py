"""What has changed between two states of a drive with an overlay, as extents."""

import msgspec

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay import BASE, OverlayImage
from ringblk.workers.layers.block_set import BlockSet
from ringblk.workers.layers.chain_form import ChainLayer
from ringblk.workers.layers.form import BLOCK_BYTES, block_count


class Extent(msgspec.Struct, frozen=True):
    """A stretch of a drive, in bytes."""

    offset: int
    length: int


def changed_blocks(image: OverlayImage, since: str) -> BlockSet:
    """The blocks that may read otherwise than at `since`, a snapshot below the image's layer, or `BASE`.

    Each block that does read otherwise is among them. Raises `ImageError`.
    """
    path = layers_since(image, since)
    changed = BlockSet()
    for each in image.layers[: len(path)]:
        changed = changed | each.states.own
    end = block_count(image.size_bytes)
    sizes = [layer.size_bytes for layer in path] + [_size_at(image, len(path))]
    if min(sizes) < max(sizes):  # what a layer cut off, or one above it made longer again, is zeroes now
        changed = changed | BlockSet.of_range(min(sizes) // BLOCK_BYTES, end)
    return changed & BlockSet.of_range(0, end)


def _size_at(image: OverlayImage, depth: int) -> int:
    """Of the drive at the layer so far down; of the base a drive's is its own."""
    return image.layers[min(depth, len(image.layers) - 1)].layer.size_bytes


def layers_since(image: OverlayImage, since: str) -> list[ChainLayer]:
    """The layers of the image that lie above `since`, from the uppermost down. Raises `ImageError`."""
    own = [each.layer for each in image.layers if each.overlay == image.folder]
    if since == BASE and image.chain.snapshot(BASE) is None:
        return own
    wanted = image.layer_of(image.chain, since)
    if wanted not in own:
        raise ImageError(f"{since!r} is not below what is to be compared with it: the drive was reset since")
    return own[: own.index(wanted)]


def extents_of(blocks: BlockSet, size_bytes: int) -> list[Extent]:
    """The stretches of a set of blocks, up to the drive's end."""
    return [
        Extent(first * BLOCK_BYTES, min(end * BLOCK_BYTES, size_bytes) - first * BLOCK_BYTES)
        for first, end in blocks.runs()
        if first * BLOCK_BYTES < size_bytes
    ]
