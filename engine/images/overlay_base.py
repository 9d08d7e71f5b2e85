"""Giving an overlay another base, or none: what it reads as stays the same."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from ringblk.engine.images.error import IS_FETCHED, ImageError
from ringblk.engine.images.overlay_hold import OverlayHold, explained
from ringblk.engine.images.probe import check_is_image, read_ends, refuse_container
from ringblk.workers.backends.direct_open import open_direct
from ringblk.workers.backends.image_lock import ImageLocked, lock_image
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.layers.block_set import BlockMarks, BlockSet
from ringblk.workers.layers.chain_form import NO_LAYER, Chain, ChainLayer
from ringblk.workers.layers.folder import DATA, LIVE, MAP, base_fault, base_identity, read_superblock
from ringblk.workers.layers.form import (
    BLOCK_BYTES,
    LAYER_BASE,
    SOURCE_BASE,
    BaseIdentity,
    Superblock,
    block_count,
)
from ringblk.workers.layers.layer_states import LayerStates, read_states
from ringblk.workers.layers.layer_writer import write_map
from ringblk.workers.layers.overlay_folder import check_layer, opened_layer

Watch = Callable[[int, int], None]
"""Told how many bytes of how many are done."""
NO_BASE = BaseIdentity(kind=0, path=b"", size_bytes=0)
_PIECE_BYTES = 1 << 20


class RawBase:
    """A raw image that is or becomes a base, locked against who would write to it.

    With `is_written` it is to be written to itself, and nobody else uses it. Raises `ImageError`, `OSError`.
    """

    def __init__(self, path: str, *, is_written: bool = False) -> None:
        check_is_image(Path(path))
        opened = open_direct(path, os.O_RDWR if is_written else os.O_RDONLY, "off")
        self.fd = opened.fd
        try:
            lock_image(opened.fd, read_only=not is_written)
            size_bytes = os.lseek(opened.fd, 0, os.SEEK_END)
            self.size_bytes = size_bytes // SECTOR_BYTES * SECTOR_BYTES
            self.path = os.path.realpath(os.fsencode(path))
            refuse_container(*read_ends(opened.fd, self.size_bytes, opened.alignment_bytes))
        except ImageLocked:
            self.close()
            raise ImageError(f"{path}: is in use by another program: stop that first") from None
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> BaseIdentity:
        """As it is now."""
        return base_identity(self.fd, self.path, self.size_bytes)

    def read(self, offset: int, length: int) -> bytes:
        """What it has there, zeroes beyond its end. Raises `OSError`."""
        content = b""
        while len(content) < min(length, self.size_bytes - offset):
            piece = os.pread(
                self.fd, min(length, self.size_bytes - offset) - len(content), offset + len(content)
            )
            if not piece:
                raise OSError(5, f"{os.fsdecode(self.path)}: it is shorter than it was")
            content += piece
        return content.ljust(length, b"\0")

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


def rebase(folder: str, new_base: str | None, watch: Watch, *, is_moved: bool = False) -> int:
    """Have an overlay lie on another raw image, or on nothing; how many blocks were copied into it for that.

    With `is_moved` the new base is taken for the same as the old one, which need not be there. A kill leaves
    the overlay on the one base or the other. Raises `ImageError`, `OSError`.
    """
    with ExitStack() as closing:
        hold = closing.enter_context(OverlayHold(folder))
        roots = [
            each for each in hold.chain.layers.values() if each.below == NO_LAYER and not each.has_no_base
        ]
        if not roots:
            raise ImageError(f"{folder}: lies on nothing")
        if hold.chain.base.kind == LAYER_BASE:
            raise ImageError(f"{folder}: lies on a snapshot of another overlay: export it instead")
        if hold.chain.base.kind == SOURCE_BASE:
            raise ImageError(f"{folder}: {IS_FETCHED}")
        new = RawBase(new_base) if new_base is not None else None
        if new is not None:
            closing.callback(new.close)
        copied = 0
        if not is_moved:
            old = closing.enter_context(_open_old(folder, hold.chain.base))
            for number, root in enumerate(roots):
                done = _Part(watch, number, len(roots))
                copied += _keep(hold.folder_fd, root, old, new, done)
        elif new is None or new.size_bytes != hold.chain.base.size_bytes:
            raise ImageError(
                f"{new_base}: is not as large as the base was, {hold.chain.base.size_bytes} bytes"
            )
        hold.put(_on(hold.chain, roots, new))
    return copied


class _Part:
    """What part of the whole is done, for who watches."""

    def __init__(self, watch: Watch, number: int, count: int) -> None:
        self._watch, self._number, self._count = watch, number, count

    def tell(self, done: int, total: int) -> None:
        self._watch(self._number * total + done, self._count * total)


class _OldBase:
    """The base as it is, seen to be what the overlay was made on."""

    def __init__(self, folder: str, was: BaseIdentity) -> None:
        self._base = RawBase(os.fsdecode(was.path))
        fault = base_fault(folder, was, self._base.identity)
        if fault is not None:
            self._base.close()
            raise ImageError(f"the base {os.fsdecode(was.path)}: {fault}")

    def __enter__(self) -> RawBase:
        return self._base

    def __exit__(self, *_: object) -> None:
        self._base.close()


def _open_old(folder: str, was: BaseIdentity) -> _OldBase:
    try:
        return _OldBase(folder, was)
    except FileNotFoundError:
        raise ImageError(
            f"its base {os.fsdecode(was.path)} is not there: --moved takes the new one for the same"
        ) from None


def _on(chain: Chain, roots: list[ChainLayer], new: RawBase | None) -> Chain:
    changed = [msgspec.structs.replace(root, has_no_base=new is None) for root in roots]
    return msgspec.structs.replace(chain.changed(*changed), base=NO_BASE if new is None else new.identity)


def _keep(folder_fd: int, root: ChainLayer, old: RawBase, new: RawBase | None, done: _Part) -> int:
    """Have in a layer that lies on the base what the new base has not; how many blocks that are.

    First the data, then the map: whatever comes between, each block reads as it did.
    """
    with explained(), opened_layer(folder_fd, root) as layer_fd:
        map_fd = os.open(MAP, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
        data_fd = os.open(DATA, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
        try:
            superblock = read_superblock(map_fd, layer_fd)
            check_layer(superblock, root)
            states = read_states(layer_fd, superblock, is_settled=root.is_settled)
            if not root.is_settled:
                _save(layer_fd, map_fd, data_fd, superblock, states)
            added = _copy_what_differs(data_fd, root.size_bytes, states, old, new, done)
            os.fsync(data_fd)
            both = LayerStates(states.present | added.present, states.zero | added.zero)
            write_map(map_fd, superblock, both)
            os.fsync(map_fd)
        finally:
            os.close(data_fd)
            os.close(map_fd)
    return len(added.own)


def _save(layer_fd: int, map_fd: int, data_fd: int, superblock: Superblock, states: LayerStates) -> None:
    """Have in the map all that a layer has, so that no live map counts. Raises `OSError`."""
    os.fsync(data_fd)
    write_map(map_fd, superblock, states)
    os.fsync(map_fd)
    with suppress(FileNotFoundError):
        os.unlink(LIVE, dir_fd=layer_fd)
    os.fsync(layer_fd)


def _copy_what_differs(
    data_fd: int, size_bytes: int, states: LayerStates, old: RawBase, new: RawBase | None, done: _Part
) -> LayerStates:
    count = block_count(size_bytes)
    present, zero = BlockMarks(count), BlockMarks(count)
    rest = BlockSet.of_range(0, count) - states.own
    for offset, length in _pieces(rest, size_bytes):
        was = old.read(offset, length)
        becomes = bytes(length) if new is None else new.read(offset, length)
        for at in range(0, length, BLOCK_BYTES) if was != becomes else ():
            block = was[at : at + BLOCK_BYTES]
            if block == becomes[at : at + BLOCK_BYTES]:
                continue
            first = (offset + at) // BLOCK_BYTES
            if any(block):
                os.pwrite(data_fd, block, offset + at)
                present.add(first, first + 1)
            else:
                zero.add(first, first + 1)
        done.tell(offset + length, size_bytes)
    return LayerStates(present.result(), zero.result())


def _pieces(blocks: BlockSet, size_bytes: int) -> Iterator[tuple[int, int]]:
    for first, end in blocks.runs():
        until = min(end * BLOCK_BYTES, size_bytes)
        for offset in range(first * BLOCK_BYTES, until, _PIECE_BYTES):
            yield offset, min(_PIECE_BYTES, until - offset)
