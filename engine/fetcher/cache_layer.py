"""The layer that the fetcher fills: one process writes to it, and any number read it meanwhile."""

import os

from ringblk.shm.sync.process import crash_point
from ringblk.workers.fetch.source_form import SourcePin, superblock_of
from ringblk.workers.layers.folder import DATA, LIVE, MAP, exists, make_layer, open_layer
from ringblk.workers.layers.form import BLOCK_BYTES, LayerDamaged, block_count
from ringblk.workers.layers.live import attach


class CacheLayer:
    """A layer on a source; it is made where there is none. Raises `LayerDamaged` and `OSError`."""

    def __init__(self, folder: str, uri: str, pin: SourcePin) -> None:
        wanted = superblock_of(uri, pin)
        self._size_bytes = pin.size_bytes
        self.block_count = block_count(pin.size_bytes)
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not exists(MAP, folder_fd):
                if exists(LIVE, folder_fd):  # of a layer that was removed in part: its data go now
                    os.unlink(LIVE, dir_fd=folder_fd)
                make_layer(folder_fd, wanted)
            files = open_layer(folder_fd)
            if files.superblock != wanted:
                raise LayerDamaged("its map is of another source")
            self._data_fd = os.open(DATA, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd)
            self._map, self._journal = attach(files.map_fd, files.live_fd, self._data_fd, wanted)
        finally:
            os.close(folder_fd)

    def has(self, offset_bytes: int, length_bytes: int) -> bool:
        """Whether all of a range is there."""
        return self._map.has(offset_bytes // BLOCK_BYTES, block_count(offset_bytes + length_bytes))

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """A range that is there. Raises `OSError`."""
        content = b""
        while len(content) < length_bytes:
            piece = os.pread(self._data_fd, length_bytes - len(content), offset_bytes + len(content))
            if not piece:
                raise OSError("the cache was cut off")
            content += piece
        return content

    def store(self, offset_bytes: int, content: bytes) -> None:
        """Have it there: whole blocks, but for the source's end. Raises `OSError`: it is not there then.

        The bits come after the bytes, so who sees them (`LayerMap.state_of`) reads those. A power failure is
        another matter: `save`.
        """
        at, rest = offset_bytes, memoryview(content)
        while rest:
            count = os.pwrite(self._data_fd, rest, at)
            at, rest = at + count, rest[count:]
            crash_point("fetcher: part of a piece written")
        crash_point("fetcher: piece written, not in the map")
        self._map.note_written(offset_bytes // BLOCK_BYTES, block_count(offset_bytes + len(content)))
        crash_point("fetcher: piece in the map")

    def save(self) -> None:
        """Have all that is there outlive a power failure. Raises `OSError`. By one thread at a time."""
        if self._map.has_changed():
            self._journal.flush(self._data_fd)

    def cached_blocks(self) -> int:
        """How many blocks are there."""
        return self._map.count()
