"""Opening an overlay and all that it lies on: what does not fit together is refused here."""

import os
from typing import NamedTuple

import msgspec

from ringblk.shm.platform.access_times import leave_access_time
from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.file_identity import file_identity
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.open_storage import OpenFile, OpenIndex, OpenLayer, OpenOverlay
from ringblk.workers.backends.overlay_base import OpenBase, check_base, open_base
from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.folder import DATA, MAP, LayerFiles, open_layer, read_superblock
from ringblk.workers.layers.form import LayerDamaged
from ringblk.workers.layers.index import BlockIndex
from ringblk.workers.layers.overlay_folder import (
    check_layer,
    locked_overlay,
    make_folder,
    new_overlay,
    opened_layer,
    read_chain,
    remove_strays,
    settle_layer,
    write_chain,
)
from ringblk.workers.layers.sealed_map import SealedMap
from ringblk.workers.layers.spare import keep_spare

_READ_ONLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class OpenedOverlay(NamedTuple):
    """An overlay that is open: what there is, its descriptors by name, and its chain."""

    found: OpenOverlay
    fds: dict[str, int]
    chain: Chain


def open_overlay(
    base_path: str | os.PathLike[str] | None,
    folder: str,
    *,
    size_bytes: int | None = None,
    direct: DirectMode = "auto",
    snapshot: str | None = None,
) -> OpenedOverlay:
    """Open an overlay; one is made where there is none. Raises `BackendError`."""
    fds: dict[str, int] = {}
    base = None
    try:
        if _lies_on_base(folder):
            if base_path is None:
                raise LayerDamaged("lies on a base: say which (--base)")
            base = open_base(os.fspath(base_path), direct, snapshot)
        make_folder(folder)
        with locked_overlay(folder) as folder_fd:
            chain = _find_chain(folder_fd, folder, base, size_bytes)
            below = [(folder, each) for each in list(chain.branch())[1:]]
            return OpenedOverlay(open_layers(folder_fd, folder, chain, below, base, direct, fds), fds, chain)
    except LayerDamaged as error:
        close_all(fds)
        raise BackendError(f"{folder}: {error}") from None
    except (OSError, ValueError) as error:
        close_all(fds)
        reason = error.strerror if isinstance(error, OSError) else None
        raise BackendError(f"{folder}: can't open it: {reason or error}") from error
    except BaseException:
        close_all(fds)
        raise
    finally:
        if base is not None:
            base.close()


def _lies_on_base(folder: str) -> bool:
    """Whether a base is needed; it is opened before the folder is made. Raises `LayerDamaged`, `OSError`."""
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        chain = read_chain(folder_fd)
    finally:
        os.close(folder_fd)
    return chain is None or not list(chain.branch())[-1].has_no_base


def _find_chain(folder_fd: int, folder: str, base: OpenBase | None, size_bytes: int | None) -> Chain:
    """The overlay's chain; where there is none, one is made. Raises as `open_layers`."""
    chain = read_chain(folder_fd)
    if chain is None:
        if base is None:
            raise LayerDamaged("has gone while it was opened: try again")
        return new_overlay(folder, folder_fd, size_bytes or base.identity.size_bytes, base.identity)
    if base is not None:
        check_base(folder, chain.base, base.identity)
        moved = msgspec.structs.replace(chain.base, path=base.identity.path)
        chain = msgspec.structs.replace(chain, base=moved)
    size_now_bytes = chain.layers[chain.top].size_bytes
    # It may have grown since it was made so large.
    if size_bytes is not None and size_bytes not in {layer.size_bytes for layer in chain.layers.values()}:
        raise BackendError(f"{folder}: has {size_now_bytes} bytes, not {size_bytes}")
    return chain


def is_current(folder: str, chain: Chain) -> bool:
    """Whether an overlay has these layers still. Raises `BackendError`."""
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return read_chain(folder_fd) == chain
        finally:
            os.close(folder_fd)
    except LayerDamaged as error:
        raise BackendError(f"{folder}: {error}") from None
    except OSError as error:
        raise BackendError(f"{folder}: can't open it: {error.strerror or error}") from error


def prepare_chain(folder: str, base_path: bytes) -> None:
    """Bring to an end what another engine had begun: the caller has the overlay, and its base is there now.

    Raises `LayerDamaged`, `OSError`.
    """
    with locked_overlay(folder) as folder_fd:
        chain = read_chain(folder_fd)
        if chain is None:
            return
        if chain.base.path != base_path:
            moved = msgspec.structs.replace(chain.base, path=base_path)
            chain = msgspec.structs.replace(chain.changed(), base=moved)
            write_chain(folder_fd, chain)
        for layer in list(chain.layers.values()):
            if layer.is_sealed and not layer.is_settled:
                chain = settle_layer(folder_fd, chain, layer)
        remove_strays(folder_fd, chain)
        keep_spare(folder_fd, chain)


def close_all(fds: dict[str, int]) -> None:
    """Close descriptors."""
    for fd in fds.values():
        os.close(fd)


def open_layers(
    folder_fd: int,
    folder: str,
    chain: Chain,
    below: list[tuple[str, ChainLayer]],
    base: OpenBase | None,
    direct: DirectMode,
    fds: dict[str, int],
    after: int = 0,
) -> OpenOverlay:
    """Open the layers of a chain and note what is open by name in `fds`, which stays the caller's.

    `after`: the highest number that a layer or index has had already. Raises `BackendError`, `LayerDamaged`,
    `OSError`.
    """
    top = chain.layers[chain.top]
    lower = below + ([] if base is None else base.layers)
    image = None if base is None else base.keep(fds)
    number = after + len(lower) + 1
    data = open_top(folder_fd, top, number, folder, direct, fds)
    fds["lock"] = (
        os.dup(fds[f"data {number}"])
        if top.is_first
        else os.open(DATA, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd)
    )
    layers = [
        OpenLayer(
            number=after + len(lower) - place,
            layer_id=layer.layer_id,
            size_bytes=layer.size_bytes,
            is_settled=layer.is_settled,
        )
        for place, (_, layer) in enumerate(lower)
    ]
    sealed = _open_sealed(lower, layers, direct, data, fds)
    base_bytes = 0 if image is None else min([image.size_bytes, *(layer.size_bytes for layer in layers)])
    return OpenOverlay(
        folder=folder,
        size_bytes=top.size_bytes,
        identity=file_identity(fds["lock"]),
        data=data,
        sealed=sealed,
        base=image,
        fetched=None if base is None else base.fetched,
        base_lock_count=0 if base is None else len(base.lock_fds),
        base_bytes=base_bytes,
        top=OpenLayer(number=number, layer_id=top.layer_id, size_bytes=top.size_bytes),
        below=layers,
        foreign_count=0 if base is None else len(base.layers),
        index=make_index(top.size_bytes, layers[1:], after + 1, fds),
        is_taken_up=False,
    )


def open_top(
    folder_fd: int, top: ChainLayer, number: int, folder: str, direct: DirectMode, fds: dict[str, int]
) -> OpenFile:
    """Open the layer that is written to; what holds of its data. Raises as `open_layers`."""
    with opened_layer(folder_fd, top) as layer_fd:
        files = open_layer(layer_fd)
    _note_files(files, number, fds)
    check_layer(files.superblock, top)
    data = FileBackend(os.path.join(folder, top.folder, DATA), direct=direct)
    leave_access_time(data.fd)
    fds[f"data {number}"] = os.dup(data.fd)
    opened = data.hand_over()[0]
    data.close()
    assert isinstance(opened, OpenFile)
    return opened


def _note_files(files: LayerFiles, number: int, fds: dict[str, int]) -> None:
    fds[f"map {number}"] = files.map_fd
    fds[f"live {number}"] = files.live_fd


def _open_sealed(
    lower: list[tuple[str, ChainLayer]],
    layers: list[OpenLayer],
    direct: DirectMode,
    data: OpenFile,
    fds: dict[str, int],
) -> OpenFile | None:
    """Open the layers that are read only; what holds of the data of all of them. Raises as `open_layers`."""
    sealed = None
    for (folder, layer), opened in zip(lower, layers, strict=True):
        file = open_sealed(folder, layer, opened.number, direct, fds)
        sealed = common_file(sealed or data, file)
    return sealed


def open_sealed(
    folder: str, layer: ChainLayer, number: int, direct: DirectMode, fds: dict[str, int]
) -> OpenFile:
    """Open a layer that is read only; what holds of its data. Raises as `open_layers`."""
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with opened_layer(folder_fd, layer) as layer_fd:
            if layer.is_settled:
                map_fd = os.open(MAP, _READ_ONLY, dir_fd=layer_fd)
                fds[f"map {number}"] = map_fd
                check_layer(read_superblock(map_fd, layer_fd), layer)
            else:
                files = open_layer(layer_fd)
                _note_files(files, number, fds)
                check_layer(files.superblock, layer)
    finally:
        os.close(folder_fd)
    # One that is not settled is still flushed.
    file = FileBackend(os.path.join(folder, layer.folder, DATA), read_only=layer.is_settled, direct=direct)
    leave_access_time(file.fd)
    fds[f"data {number}"] = os.dup(file.fd)
    found = file.hand_over()[0]
    file.close()
    assert isinstance(found, OpenFile)
    return found


def common_file(one: OpenFile, other: OpenFile) -> OpenFile:
    """What holds of the one and of the other."""
    return msgspec.structs.replace(
        one,
        direct=one.direct or other.direct,
        block_size_bytes=max(one.block_size_bytes, other.block_size_bytes),
        offset_alignment_bytes=max(one.offset_alignment_bytes, other.offset_alignment_bytes),
        memory_alignment_bytes=max(one.memory_alignment_bytes, other.memory_alignment_bytes),
    )


def make_index(
    size_bytes: int, layers: list[OpenLayer], number: int, fds: dict[str, int]
) -> OpenIndex | None:
    """An index of these layers, the nearest first, in `fds`; their maps are closed then.

    Raises `LayerDamaged`, `OSError`.
    """
    if not layers:
        return None
    fds[f"index {number}"] = fd = BlockIndex.make(size_bytes)
    index = BlockIndex(fd, size_bytes)
    for layer in reversed(layers):
        index.hide(layer.size_bytes)
        map_fd = fds.pop(f"map {layer.number}")
        try:
            index.add(SealedMap(map_fd, layer.size_bytes), layer.number)
        finally:
            os.close(map_fd)
    return OpenIndex(number, size_bytes)
