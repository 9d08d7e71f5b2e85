"""What reads otherwise at one layer than at another below it, as blocks and as extents."""

from collections.abc import Sequence

from ringblk.workers.layers.block_set import BlockSet
from ringblk.workers.layers.extent import Extent
from ringblk.workers.layers.form import BLOCK_BYTES, block_count
from ringblk.workers.layers.layer_states import LayerStates


def changed_blocks(above: Sequence[tuple[int, LayerStates]], since_bytes: int) -> BlockSet:
    """The blocks that may read otherwise at the first of some layers than at the one below the last of them.

    `above` has the size of the drive and the states at each layer, from the uppermost down; `since_bytes` is
    the size at the one below. Each block that does read otherwise is among them.
    """
    if not above:
        return BlockSet()
    changed = BlockSet()
    for _, states in above:
        changed = changed | states.own
    sizes = [size_bytes for size_bytes, _ in above] + [since_bytes]
    end = block_count(sizes[0])
    if min(sizes) < max(sizes):  # what a layer cut off, or one above it made longer again, is zeroes now
        changed = changed | BlockSet.of_range(min(sizes) // BLOCK_BYTES, end)
    return changed & BlockSet.of_range(0, end)


def extents_of(blocks: BlockSet, size_bytes: int) -> list[Extent]:
    """The stretches of a set of blocks, up to the drive's end."""
    return [
        Extent(first * BLOCK_BYTES, min(end * BLOCK_BYTES, size_bytes) - first * BLOCK_BYTES)
        for first, end in blocks.runs()
        if first * BLOCK_BYTES < size_bytes
    ]
