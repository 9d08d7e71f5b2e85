"""What is open of an overlay, beside what is to be open: what fits is used again."""

from ringblk.workers.backends.open_storage import OpenLayer, OpenOverlay
from ringblk.workers.layers.chain_form import Chain


def is_of_chain(found: OpenOverlay, chain: Chain) -> bool:
    """Whether the top, which is the chain's, lies on what the chain says that it lies on."""
    _, *branch = chain.branch()
    own = found.below[: len(found.below) - found.foreign_count]
    has_base = found.base is not None or found.foreign_count > 0
    lowest = branch[-1] if branch else chain.layers[chain.top]
    return layer_ids(own) == [layer.layer_id for layer in branch] and has_base != lowest.has_no_base


def is_indexed(below: list[OpenLayer], known: OpenOverlay | None) -> bool:
    """Whether there is an index of all but the nearest."""
    return known is not None and layer_ids(below[1:]) == layer_ids(known.below[1:])


def is_indexed_next(below: list[OpenLayer], known: OpenOverlay | None) -> bool:
    """Whether there is one to which no more than the former nearest has to be added."""
    if known is None or known.index is None or not known.below:
        return False
    is_next = layer_ids(below[1:]) == layer_ids(known.below)
    return is_next and known.below[0].size_bytes <= known.index.size_bytes


def layer_ids(layers: list[OpenLayer]) -> list[bytes]:
    """Their ids, in order."""
    return [layer.layer_id for layer in layers]
