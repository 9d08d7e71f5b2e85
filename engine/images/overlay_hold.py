"""An overlay that this program alone has, to change which layers there are."""

import contextlib
import os
from collections.abc import Iterator

from ringblk.engine.images.error import ImageError
from ringblk.workers.backends.image_lock import ImageLocked, lock_image
from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.folder import DATA
from ringblk.workers.layers.form import LayerDamaged
from ringblk.workers.layers.overlay_folder import (
    locked_overlay,
    opened_layer,
    read_chain,
    remove_layer,
    remove_strays,
    write_chain,
)


class OverlayHold:
    """Locked as an engine locks it, from entering to leaving. Raises `ImageError`, `OSError`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.chain: Chain
        self.folder_fd = self._top_fd = -1

    def __enter__(self) -> "OverlayHold":
        with explained(), locked_overlay(self.folder) as folder_fd:
            found = read_chain(folder_fd)
            if found is None:
                raise ImageError(f"{self.folder}: has no overlay in it")
            self.chain = found
            with opened_layer(folder_fd, self.top) as layer_fd:
                self._top_fd = os.open(DATA, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd)
            try:
                lock_image(self._top_fd, read_only=False)
            except BaseException as error:
                os.close(self._top_fd)
                if isinstance(error, ImageLocked):
                    raise ImageError(
                        f"{self.folder}: is in use by a running engine or another program"
                    ) from None
                raise
            remove_strays(folder_fd, found)
            # Not a duplicate, which would keep the lock that is for a moment only.
            self.folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError), locked_overlay(self.folder) as folder_fd:
            remove_strays(folder_fd, self.chain)  # what did not come to be
        os.close(self.folder_fd)
        os.close(self._top_fd)

    @property
    def top(self) -> ChainLayer:
        """The layer that is written to."""
        return self.chain.layers[self.chain.top]

    def put(self, chain: Chain) -> None:
        """Have this chain from now on: what it does not name any more is removed."""
        with explained(), locked_overlay(self.folder) as folder_fd:
            gone = [layer for key, layer in self.chain.layers.items() if key not in chain.layers]
            write_chain(folder_fd, chain)
            self.chain = chain
            for layer in gone:
                remove_layer(folder_fd, layer)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say of a damaged layer what any command says of what it cannot do."""
    try:
        yield
    except LayerDamaged as error:
        raise ImageError(str(error)) from None
