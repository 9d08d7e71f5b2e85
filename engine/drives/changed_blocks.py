"""What has changed of a drive since a snapshot: for backups that copy no more than that."""

import os

from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.changed_blocks import changed_blocks, extents_of
from ringblk.workers.layers.extent import Extent
from ringblk.workers.layers.folder import MAP, read_superblock
from ringblk.workers.layers.layer_states import LayerStates, read_states
from ringblk.workers.layers.overlay_folder import opened_layer


def changed_extents(folder: str, chain: Chain, since: ChainLayer) -> list[Extent]:
    """What may read otherwise now than in a layer that the top lies on: whole blocks, in order.

    Requests may go on meanwhile. Raises `LayerDamaged`, `OSError`.
    """
    above: list[tuple[int, LayerStates]] = []
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for layer in chain.branch():
            if layer.layer_id == since.layer_id:
                break
            above.append((layer.size_bytes, _states(folder_fd, layer)))
    finally:
        os.close(folder_fd)
    return extents_of(changed_blocks(above, since.size_bytes), chain.layers[chain.top].size_bytes)


def _states(folder_fd: int, layer: ChainLayer) -> LayerStates:
    with opened_layer(folder_fd, layer) as layer_fd:
        map_fd = os.open(MAP, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
        try:
            superblock = read_superblock(map_fd, layer_fd)
        finally:
            os.close(map_fd)
        return read_states(layer_fd, superblock, is_settled=layer.is_settled)
