"""A guest moves with the folder that is shared with it: what it knows of that goes along.

An inode goes as the host's file handle and as its path. The handle counts where both engines share the same
file system: the file may have been renamed meanwhile. Where it opens nothing, the folder is a copy, and the
path says which file it is. An inode that is found neither way is answered with ESTALE, as one that somebody
else has removed.
"""

import logging
from collections.abc import Callable
from functools import partial

from ringblk.workers.fs.moved_state import (
    MovedFolder,
    MovedInode,
    StateRefused,
    decode_folder,
    encode_folder,
)
from ringblk.workers.fs.settings import ShareSettings
from ringblk.workers.fs.share import ShareMemory
from ringblk.workers.fs.table_copy import LIMIT, TableCopy

_log = logging.getLogger(__name__)


class FolderState:
    """The state of one share, given and taken while no queue of it runs."""

    def __init__(self, memory_fd: int, folder_fd: int, settings: ShareSettings) -> None:
        """`memory_fd` is of what its processes share, `folder_fd` the folder's, or -1: inodes are numbers."""
        self._memory_fd = memory_fd
        self._folder_fd = folder_fd
        self._settings = settings

    def save(self) -> bytes:
        """All that the guest knows. Raises `StateRefused` and `OSError`."""
        table = self._table()
        if self._settings.window_bytes and table.has_window():
            raise StateRefused("the guest has files mapped (DAX), and another engine could not map them")
        minor, flags, flags2, max_write_bytes = table.session()
        return encode_folder(
            MovedFolder(
                is_of_class=self._settings.is_of_class,
                minor=minor,
                flags=flags,
                flags2=flags2,
                max_write_bytes=max_write_bytes,
                inodes=[MovedInode(*known, table.path_of(*known[3:])) for known in table.inodes()],
            )
        )

    def load(self, data: bytes) -> Callable[[], None]:
        """Look for what another engine has sent; a call that has the guest know it, and waits for nothing.

        Raises `StateRefused` and `OSError`.
        """
        folder = decode_folder(data)
        self._check(folder)
        table = self._table()
        found = [
            (inode.node_id, inode.lookup_count, inode.kind, *self._handle_here(table, inode))
            for inode in folder.inodes
        ]
        _log.info("a guest comes that knows %d inodes", len(found))
        session = (folder.minor, folder.flags, folder.flags2, folder.max_write_bytes)
        return partial(table.put, session, found)

    def _handle_here(self, table: TableCopy, inode: MovedInode) -> tuple[int, bytes]:
        """Its handle here, type and bytes; the one that it came with where there is no better."""
        own = inode.handle_type, inode.handle
        if self._folder_fd < 0:
            return own
        by_path = None if inode.path is None else table.find(inode.path, inode.kind)
        if by_path == own or table.opens(*own, inode.kind):
            return own
        if by_path is None:
            _log.warning("inode %#x of the guest is not in this folder: it is ESTALE", inode.node_id)
        return by_path or own

    def _table(self) -> TableCopy:
        return TableCopy(ShareMemory(self._memory_fd, self._folder_fd), self._folder_fd)

    def _check(self, folder: MovedFolder) -> None:
        settings = self._settings
        if folder.is_of_class != settings.is_of_class:
            raise StateRefused("it is of a folder and this a class of your own, or the other way round")
        if len(folder.inodes) > LIMIT:
            raise StateRefused(f"it has {len(folder.inodes)} inodes, and there is room for {LIMIT}")
        unknown = folder.flags & ~settings.init_flags, folder.flags2 & ~settings.init_flags2
        if any(unknown):
            raise StateRefused(
                f"the guest has agreed to FUSE flags that this engine does not offer ({unknown[0]:#x},"
                f" {unknown[1]:#x}): start it with the options of the engine that the guest leaves"
            )
