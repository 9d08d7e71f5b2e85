"""What a drive's storage tells while it is served: another size, how it stands with a server or a source."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ringblk.engine.drives.base_status import BaseStatus
from ringblk.engine.drives.changes import ChangeRefused, DriveChange, DriveChanges
from ringblk.workers.backends.answers import ServerConnection
from ringblk.workers.backends.native import NativeBackend

if TYPE_CHECKING:
    from ringblk.engine.drives.base_watch import BaseWatch

_log = logging.getLogger(__name__)
_NEWS_BYTES = 8


class StorageNews:
    """Hears of one drive's storage, from `begin` to `end`."""

    def __init__(self, backend: NativeBackend, changes: DriveChanges) -> None:
        self._backend = backend
        self._changes = changes
        self._tell_size: Callable[[], None] | None = None
        self._taking: asyncio.Task[None] | None = None
        fetched = None if backend.layered is None else backend.layered.found.fetched
        self._base: BaseWatch | None = None
        if fetched is not None:
            from ringblk.engine.drives.base_watch import BaseWatch  # for drives that have such a base

            self._base = BaseWatch.of(fetched.folder)

    def base(self) -> BaseStatus | None:
        """How it stands with the base; None: it is none that is fetched."""
        layered = self._backend.layered
        if self._base is None or layered is None:
            return None
        return self._base.status(*layered.base_counts())

    def server(self) -> ServerConnection | None:
        """How it stands with the server that keeps the bytes; None: there is no such."""
        return self._backend.connection()

    def begin(self, tell_size: Callable[[], None]) -> None:
        """Listen from now on; `tell_size` tells the guest of another size."""
        self._tell_size = tell_size
        if self._base is not None:
            self._base.begin()
        self._listen()

    def _listen(self) -> None:
        if self._tell_size is not None and self._backend.news_fd >= 0:
            asyncio.get_running_loop().add_reader(self._backend.news_fd, self._hear)

    def end(self) -> None:
        """Listen no more, and know nobody: a drive that knows itself would be freed some day, not now."""
        if self._base is not None and self._tell_size is not None:
            self._base.end()
        self._tell_size = None
        if self._backend.news_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._backend.news_fd)
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BlockingIOError):
            os.read(self._backend.news_fd, _NEWS_BYTES)
            loop.remove_reader(self._backend.news_fd)  # until this has been taken
            self._taking = loop.create_task(self._take_size())
            self._taking.add_done_callback(lambda _: self._listen())

    async def _take_size(self) -> None:
        """Have the drive as large as the storage is now."""
        try:
            await self._changes.apply(DriveChange(size="image"))
        except ChangeRefused as error:
            _log.error("the storage has another size, which the drive cannot have: %s", error)
            return
        if self._tell_size is not None:
            self._tell_size()
