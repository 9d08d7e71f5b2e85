"""An overlay as an image to be read: its layers and the base, as they lie on each other (docs/layers.md)."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from mmap import mmap
from pathlib import Path

import msgspec

from ringblk.engine.images.direct_io_reader import Span
from ringblk.engine.images.error import IS_FETCHED, ImageError
from ringblk.engine.images.format import ImageFormat
from ringblk.workers.backends.direct_open import open_direct
from ringblk.workers.backends.image_lock import ImageLocked, lock_image
from ringblk.workers.layers.block_set import BlockSet
from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.folder import DATA, MAP, base_fault, base_identity, read_superblock
from ringblk.workers.layers.form import (
    BLOCK_BYTES,
    LAYER_BASE,
    SOURCE_BASE,
    BaseIdentity,
    LayerDamaged,
    block_count,
)
from ringblk.workers.layers.layer_states import LayerStates, read_states
from ringblk.workers.layers.overlay_folder import check_layer, locked_overlay, opened_layer, read_chain
from ringblk.workers.layers.snapshot_lock import use_snapshot

BASE = "base"
"""What lies below all snapshots, as a name of it."""
_BUFFER_BYTES = 1 << 20


class ImagePiece(msgspec.Struct, frozen=True):
    """A stretch of a drive, in whole blocks but at its end: at `fd` up to `data_end`, zeroes beyond."""

    offset: int
    length: int
    fd: int | None = None
    """None: all of it is zeroes."""
    data_end: int = 0


class OpenLayer(msgspec.Struct, frozen=True):
    """A layer that is open to be read."""

    layer: ChainLayer
    overlay: str
    """The folder that it is in; another overlay's where that is the base."""
    data_fd: int
    states: LayerStates
    disk_bytes: int


class OverlayImage:
    """An overlay from one of its layers down. Raises `ImageError`, `ImageLocked`, `OSError`.

    `name` is a snapshot, the top where there is none. What is read is locked against who would write to it or
    remove it, unless `is_watched` alone: then it may change meanwhile.
    """

    def __init__(
        self,
        folder: str,
        name: str | None = None,
        *,
        is_watched: bool = False,
        base_may_differ: bool = False,
    ) -> None:
        self.folder = folder
        self._closing = ExitStack()
        self._locks = not is_watched
        self._base_may_differ = base_may_differ
        self.layers: list[OpenLayer] = []
        """From the uppermost down."""
        self.base_fd: int | None = None
        try:
            self.chain = self._open(folder, name, None)
        except LayerDamaged as error:
            self.close()
            raise ImageError(str(error)) from None
        except BaseException:
            self.close()
            raise
        self.size_bytes = self.layers[0].layer.size_bytes

    def close(self) -> None:
        """Close all, and with it let go of the locks."""
        self._closing.close()

    def __enter__(self) -> "OverlayImage":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Opening.

    def _open(self, folder: str, name: str | None, layer_id: bytes | None) -> Chain:
        """Open a branch of an overlay, and what it lies on."""
        with locked_overlay(folder) as folder_fd:
            chain = read_chain(folder_fd)
            if chain is None:
                raise ImageError(f"{folder}: has no overlay in it")
            if layer_id is not None and layer_id not in chain.layers:
                raise ImageError(f"{folder}: has no layer {layer_id.hex()}, which another overlay lies on")
            branch = list(chain.branch(layer_id or self.layer_of(chain, name).layer_id))
            for layer in branch:
                self.layers.append(self._open_layer(folder, folder_fd, layer))
        if not branch[-1].has_no_base:
            self._open_base(folder, chain.base)
        return chain

    @staticmethod
    def layer_of(chain: Chain, name: str | None) -> ChainLayer:
        """The snapshot of this name, or the top. Raises `ImageError` where there is none."""
        if name is None:
            return chain.layers[chain.top]
        found = chain.snapshot(name)
        if found is None:
            names = ", ".join(sorted(layer.name for layer in chain.layers.values() if layer.name)) or "none"
            raise ImageError(f"there is no snapshot {name!r}; there are: {names}")
        return found

    def _open_layer(self, folder: str, folder_fd: int, layer: ChainLayer) -> OpenLayer:
        with opened_layer(folder_fd, layer) as layer_fd:
            map_fd = os.open(MAP, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
            self._closing.callback(os.close, map_fd)
            superblock = read_superblock(map_fd, layer_fd)
            check_layer(superblock, layer)
            opened = open_direct(Path(folder, layer.folder, DATA), os.O_RDONLY, "auto")
            self._closing.callback(os.close, opened.fd)
            if self._locks and layer.is_sealed:
                use_snapshot(map_fd)
            elif self._locks:
                self._lock_overlay(folder, folder_fd)
            states = read_states(layer_fd, superblock, is_settled=layer.is_settled)
            names = os.listdir(layer_fd) if not layer.is_first else [DATA, MAP, "live"]
            disk_bytes = 0
            for name in names:
                with suppress(FileNotFoundError):
                    disk_bytes += os.stat(name, dir_fd=layer_fd, follow_symlinks=False).st_blocks * 512
        return OpenLayer(layer, folder, opened.fd, states, disk_bytes)

    def _lock_overlay(self, folder: str, folder_fd: int) -> None:
        """Keep off who would write to it: the file that who has an overlay has locked."""
        lock_fd = os.open(DATA, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd)
        self._closing.callback(os.close, lock_fd)
        self._lock(lock_fd, folder)

    @staticmethod
    def _lock(fd: int, folder: str) -> None:
        try:
            lock_image(fd, read_only=True)
        except ImageLocked:
            raise ImageError(f"{folder}: is in use by a running engine or another program") from None

    def _open_base(self, folder: str, base: BaseIdentity) -> None:
        path = os.fsdecode(base.path)
        if base.kind == SOURCE_BASE:
            raise ImageError(f"{folder}: {IS_FETCHED}")
        if base.kind == LAYER_BASE:
            self._open(path, None, base.layer_id)
            return
        opened = open_direct(Path(path), os.O_RDONLY, "auto")
        self._closing.callback(os.close, opened.fd)
        self.base_fd = opened.fd
        if self._locks:
            self._lock(opened.fd, path)
        size_bytes = os.lseek(opened.fd, 0, os.SEEK_END)
        fault = base_fault(folder, base, base_identity(opened.fd, base.path, size_bytes // 512 * 512))
        if fault is not None and not self._base_may_differ:
            raise ImageError(f"the base {path}: {fault}")

    # Reading.

    def pieces(self, among: BlockSet | None = None) -> list[ImagePiece]:
        """Where each stretch of the drive is, in order; of some blocks only, where a set of them is given."""
        rest = BlockSet.of_range(0, block_count(self.size_bytes)) if among is None else among
        pieces: list[ImagePiece] = []
        limit_bytes = self.size_bytes
        for each in self.layers:
            present, zero = each.states.present & rest, each.states.zero & rest
            rest = rest - (present | zero)
            pieces += self._pieces(present, each.data_fd, limit_bytes)
            pieces += self._pieces(zero, None, limit_bytes)
            limit_bytes = min(limit_bytes, each.layer.size_bytes)
        if self.base_fd is not None:
            limit_bytes = min(limit_bytes, os.lseek(self.base_fd, 0, os.SEEK_END) // 512 * 512)
        pieces += self._pieces(rest, self.base_fd, limit_bytes)
        return sorted(pieces, key=lambda piece: piece.offset)

    def _pieces(self, blocks: BlockSet, fd: int | None, limit_bytes: int) -> Iterator[ImagePiece]:
        """What is at `fd`, and from the limit on is zeroes."""
        limit_block = block_count(limit_bytes)
        for first, end in blocks.runs():
            cut = min(max(first, limit_block), end)
            for begin, until, at in ((first, cut, fd), (cut, end, None)):
                offset, end_bytes = begin * BLOCK_BYTES, min(until * BLOCK_BYTES, self.size_bytes)
                if offset < end_bytes:
                    yield ImagePiece(offset, end_bytes - offset, at, min(end_bytes, limit_bytes))

    def spans(self, pieces: list[ImagePiece]) -> Iterator[Span]:
        """The contents of pieces; each span's data is good until the next. Raises `OSError`."""
        buffer = memoryview(mmap(-1, _BUFFER_BYTES + BLOCK_BYTES))
        for piece in pieces:
            if piece.fd is None:
                yield Span(piece.offset, piece.length, None)
                continue
            for offset in range(piece.offset, piece.offset + piece.length, _BUFFER_BYTES):
                length = min(_BUFFER_BYTES, piece.offset + piece.length - offset)
                data_length = max(0, min(length, piece.data_end - offset))
                data = _read(piece.fd, offset, data_length, buffer, length)
                yield Span(offset, length, data)


def _read(fd: int, offset: int, wanted: int, buffer: memoryview, length: int) -> memoryview:
    """Read so much past the page cache, in whole blocks, and fill up to the length. Raises `OSError`."""
    asked = block_count(wanted) * BLOCK_BYTES
    done = 0
    while done < wanted:
        count = os.preadv(fd, [buffer[done:asked]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "it is shorter than it was")
        done += count if done + count >= wanted else count // BLOCK_BYTES * BLOCK_BYTES
    buffer[wanted:length] = bytes(length - wanted)
    return buffer[:length]


class OverlaySource:
    """An overlay as what is copied: the drive as its guest sees it."""

    image_format: ImageFormat = "raw"

    def __init__(self, image: OverlayImage) -> None:
        self._image = image
        self.size_bytes: int | None = image.size_bytes
        self.total_bytes: int | None = image.size_bytes
        self.progress_bytes = 0

    def spans(self) -> Iterator[Span]:
        """All of it."""
        for span in self._image.spans(self._image.pieces()):
            yield span
            self.progress_bytes = span.offset_bytes + span.size_bytes

    def close(self) -> None:
        """Close the overlay."""
        self._image.close()


def is_overlay(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an overlay's folder, or one to be: no image is a folder."""
    with suppress(OSError):
        return stat.S_ISDIR(os.stat(path).st_mode)
    return False
