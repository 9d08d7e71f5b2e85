"""Changes of the layers of an overlay that is open: what is prepared while requests go on.

Each gives an `OverlayChange`: what is to be open from then on, and the chain that says so. To write the chain
is the moment at which the operation has been done (docs/layers.md). It is used while nothing is in flight.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator

import msgspec

from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.image_lock import ImageLock
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.layered import LayeredBackend
from ringblk.workers.backends.open_storage import OpenFile, OpenIndex, OpenLayer, OpenOverlay
from ringblk.workers.backends.overlay_base import check_base, open_base
from ringblk.workers.backends.overlay_known import is_indexed, is_indexed_next, is_of_chain, layer_ids
from ringblk.workers.backends.overlay_open import close_all, common_file, open_sealed, open_top
from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.folder import DATA, MAP
from ringblk.workers.layers.form import BLOCK_BYTES, LayerDamaged, Superblock
from ringblk.workers.layers.index import BlockIndex
from ringblk.workers.layers.live import attach
from ringblk.workers.layers.overlay_folder import (
    locked_overlay,
    new_layer,
    note_settled,
    opened_layer,
    read_known_chain,
    remove_strays,
    write_chain,
)
from ringblk.workers.layers.sealed_map import SealedMap
from ringblk.workers.layers.snapshot_lock import is_snapshot_used
from ringblk.workers.layers.spare import give_spare, keep_spare

MAX_NUMBER = 60000
"""Of a layer: an index has 16 bits for it, and no number is used twice while a drive is open."""


class OverlayChange(msgspec.Struct, frozen=True):
    """What is to be open, the descriptors of it that are not open yet, and the chain."""

    found: OpenOverlay
    fds: dict[str, int]
    chain: Chain
    is_told_anew: bool = False
    """Whether processes may lack any descriptor of it."""

    def abandon(self) -> None:
        """Close what was opened for it, if it is not in use."""
        close_all(self.fds)
        self.fds.clear()


class OverlayChanger:
    """Prepares changes of one overlay, one after the other. All of it raises `BackendError`."""

    def __init__(self, backend: LayeredBackend, direct: DirectMode) -> None:
        self._backend = backend
        self._direct = direct

    @property
    def chain(self) -> Chain:
        """Which layers there are."""
        return self._backend.chain

    def seal(self, name: str, *, size_bytes: int = 0, moved: ChainLayer | None = None) -> OverlayChange:
        """A new top, of `size_bytes` or as large as before; what was the top is the snapshot `name`.

        Without a name it is none. `moved` is a snapshot that is none any more.
        """
        top = self.chain.layers[self.chain.top]
        sealed = msgspec.structs.replace(top, name=name, is_sealed=True, sealed_ns=time.time_ns())
        former = [] if moved is None else [msgspec.structs.replace(moved, name="")]
        return self._with_top(self.chain.changed(sealed, *former), top.layer_id, size_bytes or top.size_bytes)

    def reset(self, layer_id: bytes) -> OverlayChange:
        """A new top on a snapshot, or with `NO_LAYER` on the base: what the top had is gone."""
        top = self.chain.layers[self.chain.top]
        return self._with_top(self.chain.changed(without=(top.layer_id,)), layer_id, top.size_bytes)

    def rebuilt(self, chain: Chain) -> OverlayChange:
        """The same top, on what lies below it in another chain. Layers may have more blocks than they had."""
        fds: dict[str, int] = {}
        with self._opening(fds) as folder_fd:
            found = self._backend.found
            numbers = itertools.count(found.top.number + 1)
            branch = list(chain.branch())[1:]
            below = self._below(folder_fd, chain, branch, numbers, found, fds, is_index_stale=True)
            return OverlayChange(below, fds, chain)

    def resume(self) -> None:
        """Know the chain of an overlay that was opened by another process."""
        with self._opening({}) as folder_fd:
            self._backend.chain = read_known_chain(folder_fd)

    def forward(self) -> OverlayChange:
        """What the chain says, whatever is open: a layer that it has not any more may be cut off next."""
        if self.chain.top == self._backend.found.top.layer_id:
            change = OverlayChange(self._backend.found, {}, self.chain)
            if not is_of_chain(change.found, change.chain):
                change = self.rebuilt(self.chain)
            return msgspec.structs.replace(change, is_told_anew=True)
        top = self.chain.layers[self.chain.top]
        change = self._with_top(self.chain, top.below, top.size_bytes, top)
        return msgspec.structs.replace(change, chain=self.chain, is_told_anew=True)

    def write(self, chain: Chain) -> None:
        """Have the overlay be this chain from now on."""
        with self._opening({}) as folder_fd:
            write_chain(folder_fd, chain)
        self._backend.chain = chain

    def settle(self) -> None:
        """Bring the layer right below the top to the disk, if it is not there, and say so in the chain."""
        chain = self.chain
        below = chain.layers.get(chain.layers[chain.top].below)
        if below is None or below.is_settled:
            return
        with self._opening({}) as folder_fd:
            self._backend.stack.settle()
            crash_point("chain: layer on the disk")
            self._backend.chain = note_settled(folder_fd, chain, below)

    def end_with_whole_block(self) -> None:
        """Have the last block in the top, if it is one in part: nothing below is seen behind it."""
        rest_bytes = self._backend.size_bytes % BLOCK_BYTES
        if rest_bytes:
            content = bytearray(rest_bytes)
            try:
                self._backend.read_at(self._backend.size_bytes - rest_bytes, content)
                self._backend.write_at(self._backend.size_bytes - rest_bytes, content)
            except OSError as error:
                raise BackendError(f"{self._backend.folder}: {error.strerror}") from error

    def check_unused(self, layer: ChainLayer) -> None:
        """Refuse a snapshot that is the base of another overlay which is in use now."""
        with self._opening({}) as folder_fd, opened_layer(folder_fd, layer) as layer_fd:
            map_fd = os.open(MAP, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
            try:
                is_used = is_snapshot_used(map_fd)
            finally:
                os.close(map_fd)
        if is_used:
            raise BackendError(f"snapshot {layer.name} is the base of another drive, which is in use")

    def remove_strays(self) -> None:
        """Remove the layers that the chain does not name any more, which no process of the drive needs."""
        with self._opening({}) as folder_fd:
            remove_strays(folder_fd, self.chain, self._open_ids)
            keep_spare(folder_fd, self.chain)

    def empty(self, layer: ChainLayer) -> None:
        """Give back at once what a former top had: whoever has it open still needs it no more."""
        flags = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with self._opening({}) as folder_fd, opened_layer(folder_fd, layer) as layer_fd:
            os.close(os.open(DATA, flags, dir_fd=layer_fd))

    def give_spare(self) -> bool:
        """Give back the space that is kept for a reset, and what was left of one; False: there is none."""
        with self._opening({}) as folder_fd:
            remove_strays(folder_fd, self.chain, self._open_ids)
            return give_spare(folder_fd)

    @property
    def _open_ids(self) -> list[bytes]:
        """The layers that the drive's processes have, whatever the chain says: they may read them."""
        return layer_ids([self._backend.found.top, *self._backend.found.below])

    @contextlib.contextmanager
    def _opening(self, fds: dict[str, int]) -> Iterator[int]:
        """Gives the overlay's folder, locked; what was opened is closed where something fails."""
        folder = self._backend.folder
        try:
            with locked_overlay(folder) as folder_fd:
                yield folder_fd
        except LayerDamaged as error:
            close_all(fds)
            raise BackendError(f"{folder}: {error}") from None
        except OSError as error:
            close_all(fds)
            raise BackendError(f"{folder}: can't change its layers: {error.strerror or error}") from error
        except BaseException:
            close_all(fds)
            raise

    def _with_top(
        self, chain: Chain, below: bytes, size_bytes: int, top: ChainLayer | None = None
    ) -> OverlayChange:
        """A top layer, a new one if none is given, on one of a chain whose own top is none any more."""
        fds: dict[str, int] = {}
        found = self._backend.found
        numbers = itertools.count(found.top.number + 1)
        with self._opening(fds) as folder_fd:
            branch = list(chain.branch(below)) if below in chain.layers else []
            found = self._below(folder_fd, chain, branch, numbers, found, fds)
            number = next(numbers)
            if number > MAX_NUMBER:
                raise LayerDamaged(f"its layers have changed {MAX_NUMBER} times: start its drive anew")
            top = top or new_layer(folder_fd, chain, below, size_bytes)
            data = open_top(folder_fd, top, number, found.folder, self._direct, fds)
            superblock = Superblock(layer_id=top.layer_id, size_bytes=size_bytes, base=chain.base)
            map_fd, live_fd, data_fd = (fds[f"{name} {number}"] for name in ("map", "live", "data"))
            attach(map_fd, live_fd, data_fd, superblock)
            with contextlib.suppress(OSError):  # there are no locks there
                ImageLock(data_fd, read_only=False).lock()
            found = msgspec.structs.replace(
                found,
                size_bytes=size_bytes,
                data=data,
                top=OpenLayer(number=number, layer_id=top.layer_id, size_bytes=size_bytes),
            )
            return OverlayChange(found, fds, chain.changed(top, top=top.layer_id).pruned())

    def _below(
        self,
        folder_fd: int,
        chain: Chain,
        branch: list[ChainLayer],
        numbers: Iterator[int],
        found: OpenOverlay,
        fds: dict[str, int],
        *,
        is_index_stale: bool = False,
    ) -> OpenOverlay:
        """All that a top lies on which lies on this branch. Raises as `open_layers`."""
        known = {layer.layer_id: layer for layer in (found.top, *found.below)}
        sealed = common_file(found.sealed or found.data, found.data)
        below = []
        for layer in branch:
            opened = known.get(layer.layer_id)
            if opened is None:
                opened = OpenLayer(number=next(numbers), layer_id=layer.layer_id, size_bytes=layer.size_bytes)
                file = open_sealed(found.folder, layer, opened.number, self._direct, fds)
                sealed = common_file(sealed, file)
            below.append(msgspec.structs.replace(opened, is_settled=layer.is_settled))
        has_base = not (branch and branch[-1].has_no_base)
        indexed = None if is_index_stale else found
        if has_base:
            foreign = found.below[len(found.below) - found.foreign_count :]
            if (found.base is None and not foreign) or self._needs_maps_of(foreign, below, indexed):
                found, sealed = self._with_base(chain, numbers, found, sealed, fds)
            below += found.below[len(found.below) - found.foreign_count :]
        image = found.base if has_base else None
        seen_bytes = [layer.size_bytes for layer in below]
        places = {layer.layer_id: (found.folder, layer) for layer in branch}
        self._have_map(chain, below[:1], places, fds)
        return msgspec.structs.replace(
            found,
            sealed=sealed,
            base=image,
            base_bytes=0 if image is None else min([image.size_bytes, *seen_bytes]),
            fetched=found.fetched if has_base else None,
            base_lock_count=found.base_lock_count if has_base else 0,
            foreign_count=found.foreign_count if has_base else 0,
            below=below,
            index=self._index(chain, below, places, indexed, fds),
        )

    def _with_base(
        self,
        chain: Chain,
        numbers: Iterator[int],
        found: OpenOverlay,
        sealed: OpenFile,
        fds: dict[str, int],
    ) -> tuple[OpenOverlay, OpenFile]:
        """Open the base again: the drive was flattened, or the base's own layers may have been merged since.

        What is open then, and what holds of the data of all layers. Raises as `open_layers`.
        """
        base = open_base(os.fsdecode(chain.base.path), self._direct, layer_id=chain.base.layer_id)
        try:
            check_base(found.folder, chain.base, base.identity)
            foreign = []
            for folder, layer in base.layers:
                number = next(numbers)
                sealed = common_file(sealed, open_sealed(folder, layer, number, self._direct, fds))
                foreign.append(
                    OpenLayer(
                        number=number, layer_id=layer.layer_id, size_bytes=layer.size_bytes, is_settled=True
                    )
                )
            image = base.keep(fds)
        finally:
            base.close()
        found = msgspec.structs.replace(
            found,
            base=image,
            fetched=base.fetched,
            base_lock_count=len(base.lock_fds),
            foreign_count=len(foreign),
            below=[*found.below, *foreign],
        )
        return found, sealed

    def _needs_maps_of(
        self, foreign: list[OpenLayer], own: list[OpenLayer], known: OpenOverlay | None
    ) -> bool:
        """Whether maps of the base's layers are wanted that are not open any more."""
        if not foreign:
            return False
        if not own and f"map {foreign[0].number}" not in self._backend.found.fd_names:
            return True
        below = [*own, *foreign]
        return len(below) > 1 and not is_indexed(below, known) and not is_indexed_next(below, known)

    def _index(
        self,
        chain: Chain,
        below: list[OpenLayer],
        places: dict[bytes, tuple[str, ChainLayer]],
        known: OpenOverlay | None,
        fds: dict[str, int],
    ) -> OpenIndex | None:
        """An index of all but the nearest: that which is known, with one layer more, or another."""
        if len(below) < 2:
            return None
        found = known or self._backend.found
        if is_indexed(below, known):
            return found.index
        if found.index is not None and is_indexed_next(below, known):
            # Whoever looks finds these blocks in the layer itself first, for as long as that is the nearest.
            near = found.below[0]
            index = BlockIndex(self._backend.fd_of(f"index {found.index.number}"), found.index.size_bytes)
            index.hide(near.size_bytes)
            index.add(SealedMap(self._backend.fd_of(f"map {near.number}"), near.size_bytes), near.number)
            return found.index
        number = 1 if found.index is None else found.index.number + 1
        size_bytes = max(layer.size_bytes for layer in below[1:])
        fds[f"index {number}"] = BlockIndex.make(size_bytes)
        index = BlockIndex(fds[f"index {number}"], size_bytes)
        for layer in reversed(below[1:]):
            index.hide(layer.size_bytes)
            map_fd = self._open_map(chain, layer, places)
            try:
                index.add(SealedMap(map_fd, layer.size_bytes), layer.number)
            finally:
                os.close(map_fd)
        return OpenIndex(number, size_bytes)

    def _have_map(
        self,
        chain: Chain,
        near: list[OpenLayer],
        places: dict[bytes, tuple[str, ChainLayer]],
        fds: dict[str, int],
    ) -> None:
        """The map of the nearest layer is open."""
        for layer in near:
            name = f"map {layer.number}"
            if name not in self._backend.found.fd_names and name not in fds:
                fds[name] = self._open_map(chain, layer, places)

    def _open_map(self, chain: Chain, layer: OpenLayer, places: dict[bytes, tuple[str, ChainLayer]]) -> int:
        """The map of a layer, of this overlay or one that it lies on."""
        if layer.layer_id not in places:
            base = open_base(os.fsdecode(chain.base.path), self._direct, layer_id=chain.base.layer_id)
            places |= {each.layer_id: (folder, each) for folder, each in base.layers}
            base.close()
        folder, place = places[layer.layer_id]
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with opened_layer(folder_fd, place) as layer_fd:
                return os.open(MAP, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
        finally:
            os.close(folder_fd)
