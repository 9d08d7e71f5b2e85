"""What has changed between two states of a drive with an overlay."""

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay import BASE, OverlayImage
from ringblk.workers.layers.block_set import BlockSet
from ringblk.workers.layers.chain_form import ChainLayer
from ringblk.workers.layers.changed_blocks import changed_blocks


def changed_since(image: OverlayImage, since: str) -> BlockSet:
    """The blocks that may read otherwise than at `since`, a snapshot below the image's layer, or `BASE`.

    Each block that does read otherwise is among them. Raises `ImageError`.
    """
    depth = len(layers_since(image, since))
    above = [(each.layer.size_bytes, each.states) for each in image.layers[:depth]]
    # What lies below all layers has an end of its own; a layer's drive is none the larger for it.
    below = image.layers[min(depth, len(image.layers) - 1)]
    return changed_blocks(above, below.layer.size_bytes)


def layers_since(image: OverlayImage, since: str) -> list[ChainLayer]:
    """The layers of the image that lie above `since`, from the uppermost down. Raises `ImageError`."""
    own = [each.layer for each in image.layers if each.overlay == image.folder]
    if since == BASE and image.chain.snapshot(BASE) is None:
        return own
    wanted = image.layer_of(image.chain, since)
    if wanted not in own:
        raise ImageError(f"{since!r} is not below what is to be compared with it: the drive was reset since")
    return own[: own.index(wanted)]
