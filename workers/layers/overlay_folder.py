"""An overlay's folder: its layers, and the chain that says how they lie on each other (docs/layers.md)."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Collection, Iterator

import msgspec

from ringblk.shm.sync.process import crash_point
from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.folder import (
    DATA,
    FILE_MODE,
    LIVE,
    MAP,
    NEW_MAP,
    exists,
    make_layer,
    open_layer,
    read_superblock,
)
from ringblk.workers.layers.form import LAYER_BASE, BaseIdentity, LayerDamaged, Superblock
from ringblk.workers.layers.live import attach
from ringblk.workers.layers.snapshot_lock import is_first_layer_used
from ringblk.workers.layers.spare import SPARE

CHAIN = "chain"
_NEW_CHAIN = "chain.new"
_LAYER_PREFIX = "layer-"
_NOT_IN_THE_WAY = {DATA, LIVE, NEW_MAP, _NEW_CHAIN, SPARE, "lost+found"}
_FOLDER_MODE = 0o700
_ID_BYTES = 16
_LOCK_WAIT_S = 1.0
"""Who opens an overlay, or changes its chain, has it locked for milliseconds."""
_LOOK_AGAIN_S = 0.002
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def locked_overlay(folder: str) -> Iterator[int]:
    """Keep out others who would change which layers there are; gives a descriptor of the folder.

    Raises `LayerDamaged`, `OSError`.
    """
    folder_fd = os.open(folder, _FOLDER_FLAGS)
    try:
        given_up_s = time.monotonic() + _LOCK_WAIT_S
        while not _is_locked_now(folder_fd):
            if time.monotonic() > given_up_s:
                raise LayerDamaged("another program is opening it at this moment: try again")
            time.sleep(_LOOK_AGAIN_S)
        yield folder_fd
    finally:
        os.close(folder_fd)


def _is_locked_now(folder_fd: int) -> bool:
    try:
        fcntl.flock(folder_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_chain(folder_fd: int) -> Chain | None:
    """Which layers an overlay has; None where there is none yet. Raises `LayerDamaged`, `OSError`."""
    if exists(CHAIN, folder_fd):
        fd = os.open(CHAIN, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd)
        with open(fd, "rb") as file:
            return Chain.decode(file.read())
    if not exists(MAP, folder_fd):
        _check_kind(folder_fd)
        return None
    fd = os.open(MAP, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd)
    try:
        superblock = read_superblock(fd, folder_fd)
    finally:
        os.close(fd)
    first = ChainLayer(layer_id=superblock.layer_id, size_bytes=superblock.size_bytes, is_first=True)
    return Chain(layers={first.layer_id: first}, top=first.layer_id, base=superblock.base)


def read_known_chain(folder_fd: int) -> Chain:
    """The same of an overlay that is open: it has some. Raises `LayerDamaged`, `OSError`."""
    chain = read_chain(folder_fd)
    if chain is None:
        raise LayerDamaged("has lost its layers")
    return chain


def write_chain(folder_fd: int, chain: Chain) -> None:
    """Put another chain in the place of an overlay's: whatever happens meanwhile, it has one or the other.

    What the chain names is on the disk already. Raises `OSError`.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(_NEW_CHAIN, flags, FILE_MODE, dir_fd=folder_fd)
    with open(fd, "wb") as file:
        file.write(chain.encode())
        file.flush()
        os.fsync(fd)
    crash_point("chain: written")
    os.rename(_NEW_CHAIN, CHAIN, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    crash_point("chain: renamed")
    os.fsync(folder_fd)
    crash_point("chain: durable")


def new_overlay(folder: str, folder_fd: int, size_bytes: int, base: BaseIdentity) -> Chain:
    """Make an overlay of one layer in an empty folder. Raises `OSError`."""
    superblock = Superblock(layer_id=os.urandom(_ID_BYTES), size_bytes=size_bytes, base=base)
    make_layer(folder_fd, superblock)
    above_fd = os.open(os.path.dirname(os.path.abspath(folder)), _FOLDER_FLAGS)
    try:
        os.fsync(above_fd)
    finally:
        os.close(above_fd)
    first = ChainLayer(layer_id=superblock.layer_id, size_bytes=size_bytes, is_first=True)
    return Chain(layers={first.layer_id: first}, top=first.layer_id, base=base)


def new_layer(folder_fd: int, chain: Chain, below: bytes, size_bytes: int) -> ChainLayer:
    """Make a layer that is to lie on another of the same overlay, or on the base; no chain names it yet.

    Raises `OSError`.
    """
    base = chain.base
    if below in chain.layers:
        base = BaseIdentity(
            kind=LAYER_BASE, path=b"", size_bytes=chain.layers[below].size_bytes, layer_id=below
        )
    superblock = Superblock(layer_id=os.urandom(_ID_BYTES), size_bytes=size_bytes, base=base)
    layer = ChainLayer(layer_id=superblock.layer_id, below=below, size_bytes=size_bytes)
    os.mkdir(layer.folder, _FOLDER_MODE, dir_fd=folder_fd)
    with opened_layer(folder_fd, layer) as layer_fd:
        make_layer(layer_fd, superblock, is_named_by_chain=True)
    os.fsync(folder_fd)
    crash_point("chain: layer made")
    return layer


@contextlib.contextmanager
def opened_layer(folder_fd: int, layer: ChainLayer) -> Iterator[int]:
    """A descriptor of a layer's folder. Raises `LayerDamaged` where it is gone, `OSError`."""
    try:
        layer_fd = os.open(layer.folder, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder_fd)
    except FileNotFoundError:
        raise LayerDamaged(f"has lost {layer.folder}") from None
    try:
        yield layer_fd
    finally:
        os.close(layer_fd)


def check_layer(superblock: Superblock, layer: ChainLayer) -> None:
    """Raise `LayerDamaged` where what stands in a layer's place is another."""
    if superblock.layer_id != layer.layer_id:
        raise LayerDamaged(
            f"{layer.folder} has layer {superblock.layer_id.hex()} where {layer.layer_id.hex()} belongs"
        )
    if superblock.size_bytes != layer.size_bytes:
        raise LayerDamaged(
            f"{layer.folder} has {superblock.size_bytes} bytes where {layer.size_bytes} belong"
        )


def remove_layer(folder_fd: int, layer: ChainLayer) -> None:
    """Remove the files of a layer that no chain names any more. Raises `OSError`.

    The first one's `data` stays, empty: it is what who has the overlay has locked.
    """
    with opened_layer(folder_fd, layer) as layer_fd:
        for name in (MAP, NEW_MAP, LIVE, DATA):
            with contextlib.suppress(FileNotFoundError):
                if layer.is_first and name == DATA:
                    os.close(os.open(DATA, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, dir_fd=layer_fd))
                else:
                    os.unlink(name, dir_fd=layer_fd)
                crash_point("chain: file of a layer removed")
    if not layer.is_first:
        os.rmdir(layer.folder, dir_fd=folder_fd)


def settle_layer(folder_fd: int, chain: Chain, layer: ChainLayer) -> Chain:
    """Bring a sealed layer to the disk, which nobody else uses; the chain that says so.

    Raises `LayerDamaged`, `OSError`.
    """
    with opened_layer(folder_fd, layer) as layer_fd:
        files = open_layer(layer_fd)
        data_fd = os.open(DATA, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
        try:
            check_layer(files.superblock, layer)
            _, journal = attach(files.map_fd, files.live_fd, data_fd, files.superblock)
            journal.flush(data_fd)
            os.fsync(files.map_fd)
        finally:
            os.close(data_fd)
            files.close()
    crash_point("chain: left layer on the disk")
    return note_settled(folder_fd, chain, layer)


def note_settled(folder_fd: int, chain: Chain, layer: ChainLayer) -> Chain:
    """All of a layer is on the disk: the chain that says so. Raises `OSError`."""
    chain = chain.changed(msgspec.structs.replace(layer, is_settled=True))
    write_chain(folder_fd, chain)
    with opened_layer(folder_fd, layer) as layer_fd, contextlib.suppress(FileNotFoundError):
        os.unlink(LIVE, dir_fd=layer_fd)
    return chain


def remove_strays(folder_fd: int, chain: Chain, open_ids: Collection[bytes] = ()) -> None:
    """Remove layers that were left of an operation: the caller is the one that has the overlay.

    Those that its processes have open stay, and the first one while others read it; they go when this is
    called again. Raises `OSError`.
    """
    known = {layer.folder for layer in chain.layers.values()}
    for name in os.listdir(folder_fd):
        layer_id = name.removeprefix(_LAYER_PREFIX)
        if name not in known and name != layer_id and len(layer_id) == 2 * len(chain.top):
            with contextlib.suppress(ValueError):  # not one of ours
                layer = ChainLayer(layer_id=bytes.fromhex(layer_id), size_bytes=0)
                if layer.layer_id not in open_ids:
                    remove_layer(folder_fd, layer)
    if "." not in known and exists(MAP, folder_fd) and not _is_first_used(folder_fd, open_ids):
        remove_layer(folder_fd, ChainLayer(layer_id=chain.top, size_bytes=0, is_first=True))


def _is_first_used(folder_fd: int, open_ids: Collection[bytes]) -> bool:
    map_fd = os.open(MAP, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd)
    try:
        return (
            bool(open_ids) and read_superblock(map_fd, folder_fd).layer_id in open_ids
        ) or is_first_layer_used(map_fd)
    except LayerDamaged:
        return True  # nobody knows what it is
    finally:
        os.close(map_fd)


def _check_kind(folder_fd: int) -> None:
    """Raise `LayerDamaged` for a folder that is for something else."""
    names = set(os.listdir(folder_fd))
    if others := names - _NOT_IN_THE_WAY:
        raise LayerDamaged(f"is no overlay, and no empty folder to make one in: it has {min(others)}")
    if DATA in names and os.stat(DATA, dir_fd=folder_fd, follow_symlinks=False).st_blocks:
        raise LayerDamaged(f"has data and no {MAP}")


def make_folder(folder: str) -> None:
    """Make an overlay's folder where there is none. Raises `OSError`."""
    try:
        os.mkdir(folder, _FOLDER_MODE)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
