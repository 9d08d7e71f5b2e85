"""What a drive knows of a base that is fetched: whether there is a fetcher, how it stands with the source."""

import asyncio
import contextlib
import logging
import os
import socket
import weakref
from typing import ClassVar

import msgspec

from ringblk.engine.base.in_thread import in_thread
from ringblk.engine.drives.base_status import BaseStatus
from ringblk.workers.fetch.source_state import SourceState
from ringblk.workers.fetch.starting import FetcherGone, call_fetcher
from ringblk.workers.fetch.wire import NO_CONTENT, REPLY, REQUEST, WATCH
from ringblk.workers.layers.form import BLOCK_BYTES

_log = logging.getLogger(__name__)

_PAUSE_S = 1.0
"""Between two attempts to have a fetcher, where one can't be started."""
_SCATTER_S = 0.05
"""Several engines see the same fetcher die: they don't all start one in the same moment."""


class BaseWatch:
    """Of one folder in an engine, for all drives that have it: `of` gives the same to all of them."""

    _known: ClassVar["weakref.WeakValueDictionary[str, BaseWatch]"] = weakref.WeakValueDictionary()

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._user_count = 0
        self._watching: asyncio.Task[None] | None = None
        self.state: SourceState | None = None
        """What the fetcher has said last; None: it has said nothing yet."""
        self.has_fetcher = False

    @classmethod
    def of(cls, folder: str) -> "BaseWatch":
        """The one that the engine has."""
        found = cls._known.get(folder)
        if found is None:
            found = cls._known[folder] = cls(folder)
        return found

    def begin(self) -> None:
        """Another drive is served: have a fetcher from now on, whatever becomes of it."""
        self._user_count += 1
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    def end(self) -> None:
        """One is served no more."""
        self._user_count -= 1
        if self._user_count == 0 and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def status(self, read_count: int, miss_count: int) -> BaseStatus:
        """For a drive that has counted so many reads."""
        state = self.state or SourceState(uri=self._folder)
        return BaseStatus(
            source=state.uri,
            read_count=read_count,
            miss_count=miss_count,
            has_fetcher=self.has_fetcher,
            fault=state.fault,
            has_changed=state.has_changed,
            cached_bytes=state.cached_blocks * BLOCK_BYTES,
            missing_bytes=state.missing_blocks * BLOCK_BYTES,
            piece_bytes=0 if state.pin is None else state.pin.piece_bytes,
            fetched_bytes=state.fetched_bytes,
            fetch_count=state.read_count,
            failed_count=state.failed_count,
            ask_count=state.ask_count,
            uncached_bytes=state.uncached_bytes,
            waiting_count=state.waiting_count,
        )

    async def _watch(self) -> None:
        while True:
            try:
                end = await in_thread(lambda: call_fetcher(self._folder))
            except FetcherGone as error:
                _log.error("the base in %s: %s", self._folder, error)
                await asyncio.sleep(_PAUSE_S)
                continue
            self.has_fetcher = True
            try:
                await self._hear(end)
            except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError):
                _log.warning("the fetcher of the base in %s has gone: another one begins", self._folder)
            self.has_fetcher = False
            await asyncio.sleep(_SCATTER_S * os.urandom(1)[0] / 255)

    async def _hear(self, end: socket.socket) -> None:
        """Take what the fetcher says, until it goes."""
        end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=end)
        try:
            writer.write(REQUEST.pack(WATCH, 0, NO_CONTENT, 0, 0))
            while True:
                _, _, length = REPLY.unpack(await reader.readexactly(REPLY.size))
                self.state = msgspec.json.decode(await reader.readexactly(length), type=SourceState)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
