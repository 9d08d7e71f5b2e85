"""Having pieces of a source: each is fetched once, however many ask for it, and written to the cache."""

import asyncio
import errno
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ringblk.engine.fetcher.cache_layer import CacheLayer
from ringblk.engine.fetcher.cache_room import CacheRoom
from ringblk.engine.fetcher.read_ahead import ReadAhead
from ringblk.engine.fetcher.source import Source, SourceChanged, SourceFault, SourceRefused
from ringblk.shm.sync.process import crash_point
from ringblk.workers.fetch.manifest import Manifest
from ringblk.workers.fetch.source_form import SourcePin
from ringblk.workers.layers.form import LayerDamaged

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

READ_LIMIT = 16
"""Reads from the source that are under way at once."""
MEMORY_PIECES = 16
"""As many are kept in memory for which the cache has no room."""
LIE_LIMIT = 3
"""How often a piece is fetched that is not what its manifest says, before whoever asks gets an error."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 1.0
SAVE_S = 5.0
"""What was fetched is on the disk so long after: a power failure costs what came since."""


class Pieces:
    """Of one source. All but `_take` is called in the event loop."""

    def __init__(
        self,
        source: Source,
        pin: SourcePin,
        cache: CacheLayer,
        room: CacheRoom,
        manifest: Manifest | None,
    ) -> None:
        self._source, self._pin, self._cache, self._manifest = source, pin, cache, manifest
        self._room = room
        self._threads = ThreadPoolExecutor(READ_LIMIT, "fetch")
        self._fetching: dict[int, asyncio.Task[bytes | None]] = {}
        """Each gives the piece that there was no room for, or None: it is in the cache."""
        self._ahead = ReadAhead()
        self._unkept: dict[int, bytes] = {}
        """The last pieces for which there was no room: whoever reads on asks for them again and again."""
        self._one_saves = asyncio.Lock()
        self._saving: asyncio.Task[None] | None = None
        self.fault = ""
        """Why the last read has failed; empty: it has not."""
        self.has_changed = False
        self.fetched_bytes = self.read_count = self.failed_count = self.uncached_bytes = 0

    async def have(self, offset_bytes: int, length_bytes: int) -> dict[int, bytes]:
        """Have a range in the cache; those of its pieces for which there is no room. Raises `SourceFault`."""
        size = self._pin.piece_bytes
        first, end = offset_bytes // size, -(-(offset_bytes + length_bytes) // size)
        wanted = [piece for piece in range(first, end) if not self._has(piece)]
        tasks = {piece: self._begin(piece) for piece in wanted if piece not in self._unkept}
        for piece in self._ahead.after(first, end):
            if piece * size < self._pin.size_bytes and not self._has(piece):
                self._begin(piece).add_done_callback(_forget_failure)
        missing = {piece: self._unkept[piece] for piece in wanted if piece in self._unkept}
        for piece, task in tasks.items():
            content = await asyncio.shield(task)
            if content is not None:
                missing[piece] = content
                self._unkept[piece] = content
        while len(self._unkept) > MEMORY_PIECES:
            del self._unkept[next(iter(self._unkept))]
        return missing

    async def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of a range, whether there is room for them or not. Raises `SourceFault` and `OSError`."""
        size, end_bytes = self._pin.piece_bytes, offset_bytes + length_bytes
        missing = await self.have(offset_bytes, length_bytes)
        content = bytearray()
        for piece in range(offset_bytes // size, -(-end_bytes // size)):
            begin, end = max(offset_bytes, piece * size), min(end_bytes, (piece + 1) * size)
            if piece in missing:
                content += missing[piece][begin - piece * size : end - piece * size]
            else:
                content += await self._in_thread(partial(self._cache.read, begin, end - begin))
        return bytes(content)

    async def close(self) -> None:
        """Bring what was fetched to the disk; what is being fetched is given up."""
        for task in self._fetching.values():
            task.cancel()
        await self._save()

    def _has(self, piece: int) -> bool:
        return self._cache.has(*self._place(piece))

    def _place(self, piece: int) -> tuple[int, int]:
        begin = piece * self._pin.piece_bytes
        return begin, min(self._pin.piece_bytes, self._pin.size_bytes - begin)

    def _begin(self, piece: int) -> asyncio.Task[bytes | None]:
        task = self._fetching.get(piece)
        if task is None:
            task = self._fetching[piece] = asyncio.get_running_loop().create_task(self._fetch(piece))
            task.add_done_callback(lambda _: self._fetching.pop(piece, None))
        return task

    async def _fetch(self, piece: int) -> bytes | None:
        """Fetch until it is there, in the cache or here. Raises `SourceRefused` and `SourceChanged`."""
        pause_s, lies = FIRST_PAUSE_S, 0
        while True:
            if self.has_changed:
                raise SourceChanged(self.fault)
            try:
                fetched = await self._in_thread(partial(self._take, piece))
            except SourceFault as error:
                self._note_failure(error)
                lies += isinstance(error, WrongContent)
                if isinstance(error, SourceRefused | SourceChanged) or lies >= LIE_LIMIT:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
                continue
            if self.fault:
                _log.info("the source answers again")
            self.fault = ""
            self._save_later()
            return fetched

    def _note_failure(self, error: SourceFault) -> None:
        self.failed_count += 1
        self.fault = str(error)
        self.has_changed |= isinstance(error, SourceChanged)
        _log.error("the source cannot be read: %s", error)

    def _take(self, piece: int) -> bytes | None:
        """In a thread: read it, check it, write it; the piece, where there is no room for it."""
        offset, length = self._place(piece)
        # What the source has beyond whole sectors is no drive's, but in the last piece's digest.
        whole = min(self._pin.piece_bytes, self._pin.source_bytes - offset)
        content = self._source.read(offset, whole)
        self.read_count += 1
        self.fetched_bytes += length
        crash_point("fetcher: piece received")
        if self._manifest is not None and not self._manifest.is_right(piece, content):
            raise WrongContent(f"what it has at {offset} is not what the manifest says")
        content = content[:length]
        try:
            self._store(offset, content)
        except (OSError, LayerDamaged) as error:
            self.uncached_bytes += length
            reason = error.strerror if isinstance(error, OSError) else None
            _log.warning("what was fetched cannot be kept: %s", reason or error)
            return content
        return None

    def _store(self, offset: int, content: bytes) -> None:
        """Write it, where the limit and the disk have room. Raises `OSError`, `LayerDamaged`."""
        with self._room.of(len(content)) as has_room:
            if not has_room:
                raise OSError(errno.EDQUOT, "the cache is as large as it may be (--base-cache-size)")
            while True:
                try:
                    return self._cache.store(offset, content)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._room.evict():
                        raise

    async def _in_thread(self, call: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _save_later(self) -> None:
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._save_soon())

    async def _save_soon(self) -> None:
        await asyncio.sleep(SAVE_S)
        await self._save()

    async def _save(self) -> None:
        try:
            async with self._one_saves:  # the lock of flushes is of processes, not of threads
                await asyncio.get_running_loop().run_in_executor(None, self._cache.save)
        except OSError as error:
            _log.warning("what was fetched is not on the disk: %s", error.strerror or error)


class WrongContent(SourceFault):
    """The source has said what its manifest does not."""


def _forget_failure(task: "asyncio.Task[bytes | None]") -> None:
    """Nobody waits for what is read ahead."""
    if not task.cancelled():
        task.exception()
