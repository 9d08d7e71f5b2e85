"""The fetcher of one source: answers the processes of drives, and ends when there are none."""

import asyncio
import errno
import logging
import os
import socket
import time

import msgspec

from ringblk.engine.fetcher.cache_layer import CacheLayer
from ringblk.engine.fetcher.cache_room import CacheRoom
from ringblk.engine.fetcher.pieces import Pieces
from ringblk.engine.fetcher.source import Source, SourceChanged, SourceFault, SourceRefused, piece_for
from ringblk.workers.fetch.manifest import Manifest
from ringblk.workers.fetch.source_form import (
    PIN,
    VERSION,
    SourcePin,
    SourceSettings,
    layer_id_of,
    read_pin,
    told_uri,
    write_whole,
)
from ringblk.workers.fetch.source_state import SourceState
from ringblk.workers.fetch.wire import HAS_BYTES, LOOK, READ, REPLY, REQUEST, WANTS_BYTES, WATCH
from ringblk.workers.layers.form import LayerDamaged

_log = logging.getLogger(__name__)

IDLE_S = 1.0
"""Without a connection for so long, the fetcher ends."""
TELL_S = 0.25
"""Who watches hears of what has changed so long after."""
PROBE_BYTES = 1 << 18
"""What is read to see how fast the source is."""
PROBE_COUNT = 2
"""The best of so many: what is slow now and then is this host, or the way there."""
MAX_READ_BYTES = 1 << 26
"""Of one request: more than any that a guest may make."""


class Fetcher:
    """`listening` is its socket. `run` ends when nobody has been connected for a while."""

    def __init__(
        self, folder: str, settings: SourceSettings, source: Source, manifest: tuple[Manifest, str] | None
    ) -> None:
        self._folder, self._settings, self._source = folder, settings, source
        self._manifest = None if manifest is None else manifest[0]
        self._manifest_digest = "" if manifest is None else manifest[1]
        self._pin: SourcePin | None = None
        self._cache: CacheLayer | None = None
        self._pieces: Pieces | None = None
        self._fault = ""
        self._opening = asyncio.Lock()
        self._connections: set[asyncio.Task[None]] = set()
        self._ask_count = self._ask_bytes = self._waiting_count = 0
        self._watchers: set[asyncio.StreamWriter] = set()
        self._telling: asyncio.Task[None] | None = None

    async def run(self, listening: socket.socket) -> None:
        """Serve until nobody is there any more."""
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        if os.path.exists(os.path.join(self._folder, PIN)):
            await self._open()
        accepting = loop.create_task(self._accept(listening))
        while True:
            if self._connections:
                await asyncio.wait(self._connections, return_when=asyncio.FIRST_COMPLETED)
                continue
            await asyncio.sleep(IDLE_S)
            if not self._connections:
                break
        accepting.cancel()
        listening.close()
        if self._pieces is not None:
            await self._pieces.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            end, _ = await loop.sock_accept(listening)
            task = loop.create_task(self._serve(end))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, end: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=end)
        try:
            while True:
                kind, flags, layer_id, offset, length = REQUEST.unpack(await reader.readexactly(REQUEST.size))
                if kind in (LOOK, WATCH):
                    _tell(writer, await self._look())
                    if kind == WATCH:
                        self._watchers.add(writer)
                elif kind == READ:
                    await self._answer(writer, flags, layer_id, offset, length)
                else:
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # it has gone
        finally:
            self._watchers.discard(writer)
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, flags: int, layer_id: bytes, offset: int, length: int
    ) -> None:
        self._ask_count += 1
        self._ask_bytes += length
        self._waiting_count += 1
        self._tell_later()
        try:
            content = await self._read(flags, layer_id, offset, length)
        except SourceFault as error:
            _log.error("a read of %d bytes at %d fails: %s", length, offset, error)
            writer.write(REPLY.pack(-errno.EIO, 0, 0))
        except OSError as error:
            _log.error("a read of %d bytes at %d fails: %s", length, offset, error.strerror or error)
            writer.write(REPLY.pack(-errno.EIO, 0, 0))
        else:
            if content is None:
                writer.write(REPLY.pack(0, 0, 0))
            else:
                writer.write(REPLY.pack(0, HAS_BYTES, length))
                writer.write(content)
        finally:
            self._waiting_count -= 1
            self._tell_later()

    def _tell_later(self) -> None:
        """Something has changed: who watches is told soon, and not each time."""
        if self._watchers and (self._telling is None or self._telling.done()):
            self._telling = asyncio.get_running_loop().create_task(self._tell_soon())

    async def _tell_soon(self) -> None:
        await asyncio.sleep(TELL_S)
        state = await self._look()
        for writer in self._watchers:
            _tell(writer, state)

    async def _read(self, flags: int, layer_id: bytes, offset: int, length: int) -> bytes | None:
        """Have a range; its bytes, where they are wanted. Raises `SourceFault` and `OSError`."""
        while self._pieces is None:
            await self._open()
            if self._pieces is None:
                await asyncio.sleep(1.0)
        assert self._pin is not None
        if layer_id != layer_id_of(self._settings.uri, self._pin):
            raise SourceChanged("it is not what the drive was begun with")
        if length == 0 or length > MAX_READ_BYTES or offset + length > self._pin.size_bytes:
            raise SourceRefused("it is not of the source")
        if flags & WANTS_BYTES:
            return await self._pieces.read(offset, length)
        await self._pieces.have(offset, length)
        return None

    async def _look(self) -> SourceState:
        await self._open()
        if self._pin is None or self._pieces is None or self._cache is None:
            return SourceState(uri=told_uri(self._settings.uri), fault=self._fault)
        pieces, cached_blocks = self._pieces, self._cache.cached_blocks()
        return SourceState(
            uri=told_uri(self._settings.uri),
            pin=self._pin,
            layer_id=layer_id_of(self._settings.uri, self._pin),
            fault=pieces.fault,
            has_changed=pieces.has_changed,
            fetched_bytes=pieces.fetched_bytes,
            read_count=pieces.read_count,
            failed_count=pieces.failed_count,
            ask_count=self._ask_count,
            ask_bytes=self._ask_bytes,
            uncached_bytes=pieces.uncached_bytes,
            cached_blocks=cached_blocks,
            missing_blocks=self._cache.block_count - cached_blocks,
            waiting_count=self._waiting_count,
        )

    async def _open(self) -> None:
        """Have the layer; the source is looked at if nobody has before. `_fault` says why there is none."""
        async with self._opening:
            if self._pieces is not None:
                return
            try:
                pin = read_pin(self._folder)
                if pin is None:
                    pin = await asyncio.get_running_loop().run_in_executor(None, self._look_first)
                    write_whole(self._folder, PIN, msgspec.json.encode(pin))
                if pin.manifest_digest != self._manifest_digest:
                    raise LayerDamaged("its manifest is not what it was when it was fetched first")
                self._source.pin(pin.source_bytes, pin.marks)
                self._cache = CacheLayer(self._folder, self._settings.uri, pin)
            except SourceFault as error:
                self._fault = str(error)
            except LayerDamaged as error:
                self._fault = f"the cache in {self._folder}: {error}"
            except OSError as error:
                self._fault = f"the cache in {self._folder}: {error.strerror or error}"
            else:
                self._pin, self._fault = pin, ""
                self._pieces = Pieces(self._source, pin, self._cache, CacheRoom(self._folder), self._manifest)

    def _look_first(self) -> SourcePin:
        """What the source is, and how fast. Raises `SourceFault`."""
        size_bytes, marks = self._source.look()
        if size_bytes < 512:
            raise SourceRefused(f"it has only {size_bytes} bytes")
        if self._manifest is not None:
            if self._manifest.size_bytes != size_bytes:
                raise SourceRefused(
                    f"it has {size_bytes} bytes, and its manifest is of {self._manifest.size_bytes}"
                )
            piece_bytes = self._manifest.piece_bytes
        else:
            piece_bytes = self._measured_piece(size_bytes)
        if not marks and self._manifest is None:
            _log.warning("its server does not tell one content from another: only its size is compared")
        return SourcePin(
            version=VERSION,
            source_bytes=size_bytes,
            piece_bytes=piece_bytes,
            marks=marks,
            manifest_digest=self._manifest_digest,
        )

    def _measured_piece(self, size_bytes: int) -> int:
        """By a read of little and one of much, through a connection that stands."""
        much_bytes = min(size_bytes, PROBE_BYTES)
        little_s, much_s = (min(self._read_s(size) for _ in range(PROBE_COUNT)) for size in (1, much_bytes))
        piece_bytes = piece_for(little_s, much_bytes / max(much_s - little_s, 1e-6))
        _log.info(
            "a read takes %.1f ms, one of %d KiB %.1f ms: pieces have %d KiB",
            little_s * 1e3,
            much_bytes >> 10,
            much_s * 1e3,
            piece_bytes >> 10,
        )
        return piece_bytes

    def _read_s(self, size_bytes: int) -> float:
        begun_s = time.monotonic()
        self._source.read(0, size_bytes)
        return time.monotonic() - begun_s


def _tell(writer: asyncio.StreamWriter, state: SourceState) -> None:
    content = msgspec.json.encode(state)
    writer.write(REPLY.pack(0, HAS_BYTES, len(content)) + content)


def listen(path: str) -> socket.socket:
    """Listen there; who has the folder's lock may. Raises `OSError`."""
    end = socket.socket(socket.AF_UNIX)
    try:
        if os.path.exists(path):
            os.unlink(path)
        end.bind(path)
        os.chmod(path, 0o600)
        end.listen(512)
    except BaseException:
        end.close()
        raise
    return end
