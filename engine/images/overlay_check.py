"""Looking for what is wrong with an overlay, and repairing what can be repaired without a guess."""

import os
from contextlib import suppress

import msgspec

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay import OverlayImage
from ringblk.engine.images.overlay_hold import OverlayHold
from ringblk.workers.layers.block_set import BlockSet
from ringblk.workers.layers.chain_form import ChainLayer
from ringblk.workers.layers.folder import LIVE, MAP, read_superblock
from ringblk.workers.layers.form import LayerDamaged, Superblock, block_count
from ringblk.workers.layers.layer_states import (
    LayerStates,
    journal_changes,
    live_states,
    read_map,
    with_changes,
)
from ringblk.workers.layers.layer_writer import write_map
from ringblk.workers.layers.overlay_folder import check_layer, opened_layer, remove_strays


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong."""

    what: str
    is_repaired: bool = False
    can_be_repaired: bool = False


def check_overlay(folder: str, *, repair: bool) -> list[Finding]:
    """All that is wrong with an overlay, which nobody else has meanwhile.

    With `repair` what can be repaired is: nothing that is in any file of it is lost by that. Raises
    `ImageError` where its layers are not known or it is in use, `OSError`.
    """
    findings: list[Finding] = []
    with OverlayHold(folder, keeps_strays=True) as hold:
        known = {layer.folder for layer in hold.chain.layers.values()}
        strays = [
            name for name in os.listdir(hold.folder_fd) if name.startswith("layer-") and name not in known
        ]
        for name in strays:
            findings.append(Finding(f"{name} is in no chain: left of an operation", repair, True))
        if strays and repair:
            remove_strays(hold.folder_fd, hold.chain)
        for layer in hold.chain.layers.values():
            findings += _check_layer(hold.folder_fd, layer, repair=repair)
    if all(finding.is_repaired or finding.can_be_repaired for finding in findings):
        try:
            OverlayImage(folder, is_watched=True).close()
        except (ImageError, OSError) as error:
            findings.append(Finding(f"{error}"))
    return findings


def _check_layer(folder_fd: int, layer: ChainLayer, *, repair: bool) -> list[Finding]:
    name = "the first layer" if layer.is_first else layer.folder
    try:
        with opened_layer(folder_fd, layer) as layer_fd:
            map_fd = os.open(MAP, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
            try:
                superblock = read_superblock(map_fd, layer_fd)
                check_layer(superblock, layer)
                findings = _check_map(layer_fd, map_fd, superblock, layer, repair=repair)
            finally:
                os.close(map_fd)
    except FileNotFoundError as error:
        findings = [Finding(f"has lost its {error.filename}")]
    except LayerDamaged as error:
        findings = [Finding(str(error))]
    return [msgspec.structs.replace(each, what=f"{name}: {each.what}") for each in findings]


def _check_map(
    layer_fd: int, map_fd: int, superblock: Superblock, layer: ChainLayer, *, repair: bool
) -> list[Finding]:
    words, damaged = read_map(map_fd, superblock)
    if not layer.is_settled:
        with_changes(words, journal_changes(map_fd, superblock))
    saved = LayerStates.of_words(bytes(words))
    live = None if layer.is_settled else live_states(layer_fd, superblock)
    wrong = [f"unit {unit} of its map is damaged: the checksum is wrong" for unit in damaged]
    if live is not None and (saved.own - live.own or saved.present - live.present):
        wrong.append("its live map lacks blocks that its map has")
    can_be_repaired = live is not None
    is_repaired = repair and bool(wrong) and can_be_repaired
    if is_repaired and live is not None:
        present = saved.present | live.present
        write_map(map_fd, superblock, LayerStates(present, (saved.zero | live.zero) - present))
        os.fsync(map_fd)
        with suppress(FileNotFoundError):
            os.unlink(LIVE, dir_fd=layer_fd)
        os.fsync(layer_fd)
    findings = [Finding(what, is_repaired, can_be_repaired) for what in wrong]
    beyond = BlockSet.of_range(0, block_count(superblock.size_bytes))
    states = saved if live is None else LayerStates(saved.present | live.present, saved.zero | live.zero)
    if states.own - beyond:
        findings.append(Finding("its map names blocks beyond its end"))
    return findings
