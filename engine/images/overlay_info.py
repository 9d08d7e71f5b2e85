"""What an overlay is made of: its layers, and how many blocks each has."""

import os

import msgspec

from ringblk.engine.base.printable_text import utf8_text
from ringblk.engine.images.overlay import OverlayImage
from ringblk.workers.layers.block_set import BlockSet
from ringblk.workers.layers.form import BLOCK_BYTES, block_count


class LayerInfo(msgspec.Struct):
    """A layer of an overlay. Counts are of blocks of 4096 bytes."""

    layer_id: str
    name: str | None
    """The snapshot that it is, if it is one."""
    overlay: str
    """The folder that it is in."""
    size_bytes: int
    disk_bytes: int
    present_blocks: int
    zero_blocks: int
    seen_blocks: int
    """Those that no layer above has as well: who reads the drive reads them here."""
    is_top: bool
    sealed_ns: int | None


class OverlayInfo(msgspec.Struct):
    """An overlay from its top down."""

    path: str
    size_bytes: int
    disk_bytes: int
    base: str | None
    base_bytes: int | None
    own_blocks: int
    """That its own layers have."""
    shared_blocks: int
    """That are read from the base, or from another overlay that is the base."""
    layers: list[LayerInfo]
    other_snapshots: list[str]
    """That the drive does not lie on: it was reset to an earlier one."""


def read_overlay_info(folder: str) -> OverlayInfo:
    """Look at an overlay, which may be in use. Raises `ImageError`, `OSError`."""
    with OverlayImage(folder, is_watched=True) as image:
        rest = BlockSet.of_range(0, block_count(image.size_bytes))
        layers, own_blocks, shared_blocks = [], 0, 0
        for each in image.layers:
            seen = each.states.own & rest
            rest = rest - seen
            if each.overlay == folder:
                own_blocks += len(seen)
            else:
                shared_blocks += len(seen)
            layers.append(
                LayerInfo(
                    layer_id=each.layer.layer_id.hex(),
                    name=each.layer.name or None,
                    overlay=utf8_text(each.overlay),
                    size_bytes=each.layer.size_bytes,
                    disk_bytes=each.disk_bytes,
                    present_blocks=len(each.states.present),
                    zero_blocks=len(each.states.zero),
                    seen_blocks=len(seen),
                    is_top=each.layer.layer_id == image.chain.top,
                    sealed_ns=each.layer.sealed_ns if each.layer.is_sealed else None,
                )
            )
        on_branch = {each.layer.layer_id for each in image.layers}
        base_bytes = None if image.base_fd is None else os.lseek(image.base_fd, 0, os.SEEK_END)
        if base_bytes is not None:  # nothing of it is seen through a layer that ends before
            seen_bytes = min([base_bytes, *(each.layer.size_bytes for each in image.layers)])
            shared_blocks += len(rest & BlockSet.of_range(0, block_count(seen_bytes)))
        return OverlayInfo(
            path=utf8_text(folder),
            size_bytes=image.size_bytes,
            disk_bytes=sum(each.disk_bytes for each in image.layers if each.overlay == folder),
            base=utf8_text(os.fsdecode(image.chain.base.path)) if image.chain.base.path else None,
            base_bytes=base_bytes,
            own_blocks=own_blocks,
            shared_blocks=shared_blocks,
            layers=layers,
            other_snapshots=sorted(
                layer.name
                for layer in image.chain.layers.values()
                if layer.name and layer.layer_id not in on_branch
            ),
        )


def overlay_lines(info: OverlayInfo) -> list[tuple[str, str]]:
    """The same for people: names and values."""
    lines = [
        ("overlay", info.path),
        ("size", f"{info.size_bytes} bytes"),
        ("on disk", f"{info.disk_bytes} bytes"),
        ("base", info.base or "none"),
        ("own", f"{info.own_blocks} blocks of {BLOCK_BYTES} bytes"),
        ("shared", f"{info.shared_blocks} blocks, with all that have the same base"),
    ]
    for layer in info.layers:
        what = "top" if layer.is_top else f"snapshot {layer.name}" if layer.name else "layer"
        counts = f"{layer.present_blocks} blocks, {layer.zero_blocks} of zeroes, {layer.seen_blocks} seen"
        lines.append((what, f"{counts}, {layer.disk_bytes} bytes on disk ({layer.layer_id})"))
    return lines + [("not below the top", name) for name in info.other_snapshots]
