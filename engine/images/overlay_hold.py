"""An overlay that this program alone has, to change which layers there are."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator

from ringblk.engine.images.error import ImageError
from ringblk.workers.backends.image_lock import ImageLocked, lock_image
from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.folder import DATA
from ringblk.workers.layers.form import LAYER_BASE, BaseIdentity, LayerDamaged, Superblock
from ringblk.workers.layers.layer_writer import LayerWriter
from ringblk.workers.layers.overlay_folder import (
    locked_overlay,
    new_layer,
    opened_layer,
    read_chain,
    remove_layer,
    remove_strays,
    write_chain,
)


class OverlayHold:
    """Locked as an engine locks it, from entering to leaving. Raises `ImageError`, `OSError`."""

    def __init__(self, folder: str, *, keeps_strays: bool = False) -> None:
        self.folder = folder
        self.chain: Chain
        self.folder_fd = -1
        self._keeps_strays = keeps_strays
        self._locks = contextlib.ExitStack()

    def __enter__(self) -> "OverlayHold":
        with explained(), locked_overlay(self.folder) as folder_fd:
            found = read_chain(folder_fd)
            if found is None:
                raise ImageError(f"{self.folder}: has no overlay in it")
            self.chain = found
            try:
                self._lock(folder_fd)
            except BaseException:
                self._locks.close()
                raise
            if not self._keeps_strays:
                remove_strays(folder_fd, found)
            # Not a duplicate, which would keep the lock that is for a moment only.
            self.folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def _lock(self, folder_fd: int) -> None:
        """Have the file that who has an overlay has locked, and the top's, as an engine has them."""
        with opened_layer(folder_fd, self.top) as layer_fd:
            for at in (folder_fd, layer_fd):
                fd = os.open(DATA, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=at)
                self._locks.callback(os.close, fd)
                try:
                    lock_image(fd, read_only=False)
                except ImageLocked:
                    raise ImageError(
                        f"{self.folder}: is in use by a running engine or another program"
                    ) from None
                if self.top.is_first:
                    return

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, LayerDamaged), locked_overlay(self.folder) as folder_fd:
            if not self._keeps_strays:
                remove_strays(folder_fd, self.chain)  # what did not come to be
        os.close(self.folder_fd)
        self._locks.close()

    @property
    def top(self) -> ChainLayer:
        """The layer that is written to."""
        return self.chain.layers[self.chain.top]

    @contextlib.contextmanager
    def new_snapshot(self, name: str, size_bytes: int) -> Iterator[LayerWriter]:
        """A snapshot more, which is filled in the block and is there once that has ended, with a new top.

        What the top has is in it no more: so that must have nothing.
        """
        layer = ChainLayer(
            layer_id=secrets.token_bytes(16),
            below=self.top.below,
            size_bytes=size_bytes,
            name=name,
            sealed_ns=time.time_ns(),
            is_sealed=True,
            is_settled=True,
            has_no_base=self.top.has_no_base,
        )
        with self.filled(layer) as writer:
            yield writer

    @contextlib.contextmanager
    def filled(self, layer: ChainLayer) -> Iterator[LayerWriter]:
        """As `new_snapshot`, with a layer of the caller's making, which lies on what the top lies on."""
        superblock = Superblock(
            layer_id=layer.layer_id, size_bytes=layer.size_bytes, base=_lies_on(self.chain, layer.below)
        )
        writer = LayerWriter(self.folder_fd, layer, superblock)
        try:
            yield writer
            writer.settle()
        finally:
            writer.close()
        top = new_layer(self.folder_fd, self.chain.changed(layer), layer.layer_id, layer.size_bytes)
        self.put(self.chain.changed(layer, top, without=(self.chain.top,), top=top.layer_id))

    def put(self, chain: Chain) -> None:
        """Have this chain from now on: what it does not name any more is removed."""
        with explained(), locked_overlay(self.folder) as folder_fd:
            gone = [layer for key, layer in self.chain.layers.items() if key not in chain.layers]
            write_chain(folder_fd, chain)
            self.chain = chain
            for layer in gone:
                remove_layer(folder_fd, layer)


def _lies_on(chain: Chain, below: bytes) -> BaseIdentity:
    """What a layer's superblock says that it lies on."""
    if below not in chain.layers:
        return chain.base
    size_bytes = chain.layers[below].size_bytes
    return BaseIdentity(kind=LAYER_BASE, path=b"", size_bytes=size_bytes, layer_id=below)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say of a damaged layer what any command says of what it cannot do."""
    try:
        yield
    except LayerDamaged as error:
        raise ImageError(str(error)) from None
