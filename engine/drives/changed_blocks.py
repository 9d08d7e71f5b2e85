"""What has changed of a drive since a snapshot: for backups that copy no more than that."""

import os

from ringblk.engine.drives.layer_reports import Extent
from ringblk.workers.layers.block_set import BlockSet
from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.folder import MAP, read_superblock
from ringblk.workers.layers.form import BLOCK_BYTES, block_count
from ringblk.workers.layers.layer_states import LayerStates, read_states
from ringblk.workers.layers.overlay_folder import opened_layer


def changed_extents(folder: str, chain: Chain, since: ChainLayer) -> list[Extent]:
    """What may read otherwise now than in a layer that the top lies on: whole blocks, in order.

    Requests may go on meanwhile. Raises `LayerDamaged`, `OSError`.
    """
    changed = BlockSet()
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for layer in chain.branch():
            if layer.layer_id == since.layer_id:
                break
            changed = changed | _states(folder_fd, layer).own
    finally:
        os.close(folder_fd)
    size_bytes = chain.layers[chain.top].size_bytes
    end = block_count(size_bytes)
    if since.size_bytes < size_bytes:  # what was added reads as zeroes, and was not there
        changed = changed | BlockSet.of_range(since.size_bytes // BLOCK_BYTES, end)
    return [
        Extent(first * BLOCK_BYTES, min(until * BLOCK_BYTES, size_bytes) - first * BLOCK_BYTES)
        for first, until in (changed & BlockSet.of_range(0, end)).runs()
    ]


def _states(folder_fd: int, layer: ChainLayer) -> LayerStates:
    with opened_layer(folder_fd, layer) as layer_fd:
        map_fd = os.open(MAP, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
        try:
            superblock = read_superblock(map_fd, layer_fd)
        finally:
            os.close(map_fd)
        return read_states(layer_fd, superblock, is_settled=layer.is_settled)
