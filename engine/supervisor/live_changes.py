"""What can be changed about an engine while a guest uses it: pause, size, cache mode, number of workers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

from ringblk.engine.devices.block_device import BlockDevice, CacheMode
from ringblk.engine.devices.published_device import PublishedDevice
from ringblk.engine.dispatcher.messages import Pause, Resume, WorkerRetire, WorkerUp
from ringblk.engine.supervisor.dispatcher_link import DispatcherLink
from ringblk.engine.supervisor.engine_model import EngineModel
from ringblk.engine.supervisor.running_settings import RunningSettings
from ringblk.engine.supervisor.workforce import Workforce
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.topology import SECTOR_BYTES

_log = logging.getLogger(__name__)


class ChangeRefused(Exception):  # noqa: N818
    """The change cannot be made and nothing was changed: `field` names what to ask for differently."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class ChangeUnfinished(Exception):  # noqa: N818
    """The host has no more of something: part of the change was made, and the message says how much.

    Give the host what it lacks and ask again.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class LiveChanges:
    """Changes to one running engine; those of the same kind are made one after the other."""

    def __init__(
        self,
        device: BlockDevice,
        backend: NativeBackend,
        state: StateSegment,
        model: EngineModel,
        link: DispatcherLink,
        workers: Workforce,
        published: PublishedDevice,
    ) -> None:
        self._device = device
        self._backend = backend
        self._state = state
        self._model = model
        self._link = link
        self._workers = workers
        self._published = published
        self._holders: set[str] = set()
        self._resize_lock = asyncio.Lock()
        self._workers_lock = asyncio.Lock()
        self.notify_config_change: Callable[[], bool] | None = None
        """Tells the front end that is connected, if one is; False where it cannot be told."""
        self.set_size_bytes: int | None = None
        """The size that was asked for while running, and is not simply what the image has."""

    def go_on_with(self, settings: RunningSettings) -> None:
        """Begin as an earlier engine of this drive was set; the number of workers is the supervisor's."""
        self.set_size_bytes = settings.size_bytes
        if settings.cache is not None:
            self._device.set_cache(settings.cache)
        if settings.is_paused:
            self._holders.add("user")
            self._model.is_paused = True
            self._state.set_paused(True)
        self._published.publish()

    # Pause

    @property
    def is_paused(self) -> bool:
        """Whether somebody has paused the engine and not resumed it."""
        return "user" in self._holders

    async def pause(self) -> None:
        """Pop nothing more; returns when nothing is in flight.

        Raises `DeviceError` when the engine is resumed before.
        """
        await self._hold("user")

    async def resume(self) -> None:
        """Pop again, unless a change in progress still needs the pause."""
        await self._release("user")

    async def _hold(self, holder: str) -> None:
        self._holders.add(holder)
        self._model.is_paused = True
        self._state.set_paused(self.is_paused)
        await self._link.ask(Pause)

    async def _release(self, holder: str) -> None:
        self._holders.discard(holder)
        self._state.set_paused(self.is_paused)
        if not self._holders:
            self._model.is_paused = False
            await self._link.ask(Resume)

    # Size and cache mode

    @asynccontextmanager
    async def resizing(self, size: int | Literal["image"]) -> AsyncIterator[Callable[[], None]]:
        """Prepare to make the drive so many bytes large, or as its image is now; what it gives does so.

        A regular file is extended or cut off. Shrinking waits until nothing is in flight, so that no write
        lands beyond the new end and brings it back. Both raise `ChangeRefused`.
        """
        async with self._resize_lock:
            size_bytes = self._whole_blocks(self._backend_size()) if size == "image" else size
            self._check_size(size_bytes)
            set_size = partial(self._set_size, size_bytes, is_measured=size == "image")
            if size_bytes >= self._device.num_sectors * SECTOR_BYTES:
                yield set_size
                return
            try:
                await self._hold("resize")
                yield set_size
            finally:
                await self._release("resize")

    def _backend_size(self) -> int:
        try:
            return self._backend.measure()
        except (BackendError, OSError) as error:
            raise ChangeRefused("size_bytes", str(error)) from error

    @property
    def _block_bytes(self) -> int:
        """What the size is a multiple of, so that the last block does not reach past the image's end."""
        return max(self._backend.block_size_bytes, self._device.logical_block_size_bytes)

    def _whole_blocks(self, size_bytes: int) -> int:
        """What the guest sees of an image of this size."""
        if rest_bytes := size_bytes % self._block_bytes:
            _log.warning(
                "the guest does not see the last %d bytes: no whole block of %d",
                rest_bytes,
                self._block_bytes,
            )
        return size_bytes - rest_bytes

    def _check_size(self, size_bytes: int) -> None:
        block_bytes = self._block_bytes
        if size_bytes <= 0 or size_bytes % block_bytes:
            raise ChangeRefused("size_bytes", f"{size_bytes} is not a multiple of {block_bytes} above 0")
        if size_bytes >= 1 << 63:
            raise ChangeRefused("size_bytes", f"{size_bytes} is not below 2**63")

    def _set_size(self, size_bytes: int, *, is_measured: bool) -> None:
        try:
            if not is_measured:
                self._backend.resize(size_bytes)
        except (BackendError, OSError) as error:
            raise ChangeRefused("size_bytes", str(error)) from error
        self.set_size_bytes = None if is_measured else size_bytes
        self._device.set_capacity(size_bytes)
        self._published.publish()

    def tell_size(self) -> None:
        """Tell the driver, where its front end takes that."""
        is_told = self.notify_config_change is not None and self.notify_config_change()
        size_bytes = self._device.num_sectors * SECTOR_BYTES
        _log.info(
            "the drive has %d bytes; the driver %s", size_bytes, "is told" if is_told else "is not told"
        )

    def set_cache(self, cache: CacheMode) -> None:
        """Use another cache mode for what is popped from now on."""
        self._device.set_cache(cache)
        self._published.publish()

    @property
    def is_read_only(self) -> bool:
        """Whether the guest may only read."""
        return self._device.read_only

    @property
    def cache(self) -> CacheMode:
        """The cache mode now."""
        return self._device.cache

    def wake_dispatcher(self) -> None:
        """Have limits that were changed take hold at once."""
        self._link.wake()

    # Workers

    @property
    def worker_count(self) -> int:
        """How many workers there are to be now."""
        return self._workers.wanted_count

    async def set_worker_count(self, count: int) -> None:
        """Have so many worker processes; returns when new ones are started and others have ended.

        A worker that is to end gets no more requests and finishes those that it holds. Raises
        `ChangeRefused` for an engine without workers, `ChangeUnfinished` where the host starts no more.
        """
        if self.worker_count == 0:
            raise ChangeRefused("count", "this engine has no workers (--io-engine=sync)")
        async with self._workers_lock:
            for worker_index in range(self.worker_count, count):
                self._add_worker(worker_index, count)
            leaving = range(count, self.worker_count)
            self._workers.wanted_count = count
            await asyncio.gather(*(self._retire(worker_index) for worker_index in leaving))

    def _add_worker(self, worker_index: int, count: int) -> None:
        try:
            eventfd = self._workers.start(worker_index)
        except OSError as error:
            reason = f"only {worker_index} of {count} workers could be started: {error.strerror or error}"
            raise ChangeUnfinished("count", reason) from error
        self._workers.wanted_count = worker_index + 1
        self._model.worker_eventfds[worker_index] = eventfd
        self._link.tell(WorkerUp(worker_index), [eventfd])

    async def _retire(self, worker_index: int) -> None:
        ended = self._workers.begin_retirement(worker_index)
        await self._link.ask(lambda request_id: WorkerRetire(request_id, worker_index))
        self._model.worker_eventfds.pop(worker_index, None)  # no later dispatcher may hand to it
        self._workers.stop_one(worker_index)
        await ended
