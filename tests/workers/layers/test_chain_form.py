"""The chain of an overlay, encoded and read again; what is wrong with one is said."""

import os
import random
import secrets
from pathlib import Path

import pytest

from ringblk.workers.layers.chain_form import NO_LAYER, Chain, ChainLayer
from ringblk.workers.layers.form import FILE_BASE, BaseIdentity, LayerDamaged
from ringblk.workers.layers.overlay_folder import (
    locked_overlay,
    make_folder,
    new_layer,
    new_overlay,
    read_chain,
    remove_strays,
    write_chain,
)

_BASE = BaseIdentity(kind=FILE_BASE, path=b"/images/base.raw", size_bytes=1 << 20, inode=7, modified_ns=-9)


def make_chain(count: int) -> Chain:
    layers, below = {}, NO_LAYER
    for number in range(count):
        layer = ChainLayer(
            layer_id=secrets.token_bytes(16),
            below=below,
            size_bytes=4096 * (number + 1),
            name=f"ß{number}" if number % 2 else "",
            sealed_ns=number,
            is_sealed=number + 1 < count,
            is_settled=number + 2 < count,
            is_first=number == 0,
            has_no_base=number == 0 and bool(count % 2),
        )
        below = layer.layer_id
        layers[below] = layer
    return Chain(layers=layers, top=below, base=_BASE, generation=count)


@pytest.mark.parametrize("count", [1, 2, 500])
def test_chain_is_read_as_it_was_written(count: int) -> None:
    chain = make_chain(count)
    assert Chain.decode(chain.encode()) == chain
    assert [layer.size_bytes for layer in chain.branch()] == [4096 * n for n in range(count, 0, -1)]


def test_each_changed_byte_is_found() -> None:
    content = make_chain(3).encode()
    for place in random.Random(1).sample(range(len(content)), 200):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(LayerDamaged):
            Chain.decode(bytes(damaged))


def test_chain_without_a_layer_is_refused() -> None:
    chain = make_chain(3)
    _, middle, _ = chain.branch()
    with pytest.raises(LayerDamaged, match="lacks what a layer lies on"):
        Chain.decode(chain.changed(without=(middle.layer_id,)).encode())
    with pytest.raises(LayerDamaged, match="lacks its top"):
        Chain.decode(chain.changed(without=(chain.top,)).encode())


def test_folder_has_its_layers(tmp_path: Path) -> None:
    """An overlay of one layer needs no chain; what no chain names is removed."""
    folder = str(tmp_path / "overlay")
    make_folder(folder)
    with locked_overlay(folder) as folder_fd:
        assert read_chain(folder_fd) is None
        chain = new_overlay(folder, folder_fd, 1 << 20, _BASE)
        assert read_chain(folder_fd) == chain
        layer = new_layer(folder_fd, chain, chain.top, 1 << 20)
        stray = new_layer(folder_fd, chain, NO_LAYER, 1 << 20)
        write_chain(folder_fd, chain.changed(layer, top=layer.layer_id))
        found = read_chain(folder_fd)
        assert found is not None
        assert [each.layer_id for each in found.branch()] == [layer.layer_id, chain.top]
        remove_strays(folder_fd, found)
        assert stray.folder not in os.listdir(folder)
        write_chain(
            folder_fd,
            found.changed(without=(chain.top,))
            .changed(layer, without=())
            .changed(ChainLayer(layer_id=layer.layer_id, size_bytes=1 << 20)),
        )
        remove_strays(folder_fd, read_chain(folder_fd) or found)
        assert set(os.listdir(folder)) == {"chain", "data", layer.folder}
