"""A layer as files: `data` has its blocks, `map` says which, `live` is the map in use (docs/layers.md)."""

import contextlib
import os
import stat
import time

import msgspec

from ringblk.workers.layers.form import (
    BLOCK_BYTES,
    DEVICE_BASE,
    FILE_BASE,
    LAYER_BASE,
    SOURCE_BASE,
    SUPERBLOCK_BYTES,
    BaseIdentity,
    LayerDamaged,
    MapLayout,
    Superblock,
    block_count,
)

DATA, MAP, LIVE = "data", "map", "live"
NEW_MAP = "map.new"
FILE_MODE = 0o600
BEING_WRITTEN_NS = -1
"""When a base was last written to, in a chain, while a commit into it is under way: no base is like that."""


class LayerFiles(msgspec.Struct, frozen=True):
    """The descriptors of a layer's map and live map, and what is known of it; the data are opened by path."""

    map_fd: int
    live_fd: int
    superblock: Superblock

    def close(self) -> None:
        """Close them."""
        os.close(self.map_fd)
        os.close(self.live_fd)


def base_identity(fd: int, path: bytes, size_bytes: int) -> BaseIdentity:
    """What a layer keeps of its base, which is open as `fd` and served with this size. Raises `OSError`."""
    info = os.fstat(fd)
    if stat.S_ISBLK(info.st_mode):
        return BaseIdentity(kind=DEVICE_BASE, path=path, size_bytes=size_bytes)
    return BaseIdentity(
        kind=FILE_BASE, path=path, size_bytes=size_bytes, inode=info.st_ino, modified_ns=info.st_mtime_ns
    )


def base_change(was: BaseIdentity, now: BaseIdentity) -> str | None:
    """How a base differs from what it was when the layer was made on it; None: it does not."""
    if was.kind != now.kind:
        kinds = {
            FILE_BASE: "a file",
            DEVICE_BASE: "a block device",
            LAYER_BASE: "a layer",
            SOURCE_BASE: "a base that is fetched",
        }
        return f"it was {kinds.get(was.kind, 'something else')} and is {kinds[now.kind]}"
    if was.layer_id != now.layer_id and now.kind == SOURCE_BASE:
        return f"its source had other content (marks {was.layer_id.hex()}, now {now.layer_id.hex()})"
    if was.layer_id != now.layer_id:
        return f"it was layer {was.layer_id.hex()} and is layer {now.layer_id.hex()}"
    if was.size_bytes != now.size_bytes:
        return f"it had {was.size_bytes} bytes and has {now.size_bytes}"
    if was.inode != now.inode:
        return f"it was another file (inode {was.inode}, now {now.inode})"
    if was.modified_ns != now.modified_ns:
        return f"it was last written to at {_time(was.modified_ns)}, and is as of {_time(now.modified_ns)}"
    return None


def base_fault(folder: str, was: BaseIdentity, now: BaseIdentity) -> str | None:
    """What is wrong with the base of the overlay in a folder, to be said of the base; None: nothing is."""
    change = base_change(was, now)
    if change is None:
        return None
    if was.modified_ns == BEING_WRITTEN_NS:
        again = f"run 'ringblk image commit {folder}' again, which goes on"
        return f"a commit of the overlay {folder} into it was cut off: {again}"
    return f"is not as it was when the overlay {folder} was made on it: {change}"


def open_layer(layer_fd: int) -> LayerFiles:
    """Open the layer in a folder that is open, to be written to. Raises `LayerDamaged` and `OSError`."""
    map_fd = os.open(MAP, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
    try:
        superblock = read_superblock(map_fd, layer_fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return LayerFiles(map_fd, os.open(LIVE, flags, FILE_MODE, dir_fd=layer_fd), superblock)
    except BaseException:
        os.close(map_fd)
        raise


def make_layer(layer_fd: int, superblock: Superblock, *, is_named_by_chain: bool = False) -> None:
    """Make a layer without blocks: it is there as soon as its map has its name, or a chain names it.

    All files are made before the first is brought to the disk: a file system with a journal then writes that
    once. Who writes to it meanwhile waits for each time. Raises `OSError`.
    """
    data_bytes = block_count(superblock.size_bytes) * BLOCK_BYTES
    map_name = MAP if is_named_by_chain else NEW_MAP
    with contextlib.ExitStack() as stack:
        fds = []
        for name, size_bytes, content in (
            (DATA, data_bytes, b""),
            (map_name, MapLayout.of(superblock.size_bytes).file_bytes, superblock.encode()),
        ):
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(name, flags, FILE_MODE, dir_fd=layer_fd)
            stack.callback(os.close, fd)
            os.ftruncate(fd, size_bytes)
            os.pwrite(fd, content, 0)
            fds.append(fd)
        for fd in fds:
            os.fsync(fd)
    if not is_named_by_chain:
        os.rename(NEW_MAP, MAP, src_dir_fd=layer_fd, dst_dir_fd=layer_fd)
    os.fsync(layer_fd)


def read_superblock(map_fd: int, layer_fd: int) -> Superblock:
    """Read it, and see that all of the layer is there. Raises `LayerDamaged`, `OSError`."""
    superblock = Superblock.decode(os.pread(map_fd, SUPERBLOCK_BYTES, 0))
    if os.fstat(map_fd).st_size < MapLayout.of(superblock.size_bytes).file_bytes:
        raise LayerDamaged("its map was cut off")
    data_bytes = os.stat(DATA, dir_fd=layer_fd).st_size if exists(DATA, layer_fd) else 0
    if data_bytes < block_count(superblock.size_bytes) * BLOCK_BYTES:
        raise LayerDamaged(
            f"its {DATA} has only {data_bytes} bytes" if data_bytes else f"has lost its {DATA}"
        )
    return superblock


def exists(name: str, folder_fd: int) -> bool:
    """Whether a folder has something of that name. Raises `OSError`."""
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _time(ns: int) -> str:
    seconds, rest_ns = divmod(ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{rest_ns:09d}"
