"""What can be changed about a drive while a guest uses it: pause, size, cache mode, number of workers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

from ringblk.engine.devices.device_face import CacheMode, DeviceFace
from ringblk.engine.dispatcher.messages import Pause, Resume
from ringblk.engine.drives.publication import Publication
from ringblk.engine.drives.settings import USER, DriveSettings
from ringblk.engine.supervisor.drive_model import DriveModel
from ringblk.engine.supervisor.drive_processes import DriveProcesses
from ringblk.engine.supervisor.workforce import WorkersMissing
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend

RESIZE = "resize"
"""Who holds a pause while the drive shrinks."""

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


class DriveChanges:
    """Changes to one running drive; those of the same kind are made one after the other."""

    def __init__(
        self,
        device: DeviceFace,
        backend: NativeBackend,
        state: StateSegment,
        model: DriveModel,
        processes: DriveProcesses,
        settings: DriveSettings,
        publication: Publication,
    ) -> None:
        self._device = device
        self._backend = backend
        self._state = state
        self._model = model
        self._processes = processes
        self._settings = settings
        self._publication = publication
        self._resize_lock = asyncio.Lock()

    # Pause

    async def pause(self) -> None:
        """Pop nothing more; returns when nothing is in flight.

        Raises `DeviceError` when the engine is resumed before.
        """
        try:
            await self._hold(USER)
        finally:
            self._publication.save()

    async def resume(self) -> None:
        """Pop again, unless a change in progress still needs the pause."""
        await self._release(USER)
        self._publication.save()

    async def _hold(self, holder: str) -> None:
        self._model.pause_holders.add(holder)
        self._state.set_paused(self._settings.is_paused)
        await self._processes.ask(Pause)

    async def _release(self, holder: str) -> None:
        self._model.pause_holders.discard(holder)
        self._state.set_paused(self._settings.is_paused)
        if not self._model.pause_holders:
            await self._processes.ask(Resume)

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
            if size_bytes >= self._device.capacity_bytes:
                yield set_size
                return
            try:
                await self._hold(RESIZE)
                yield set_size
            finally:
                await self._release(RESIZE)

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
        self._settings.size_bytes = None if is_measured else size_bytes
        self._device.set_capacity(size_bytes)
        self._publication.publish()

    def set_cache(self, cache: CacheMode) -> None:
        """Use another cache mode for what is popped from now on."""
        self._device.set_cache(cache)
        self._publication.publish()

    # Workers

    async def set_worker_count(self, count: int) -> None:
        """Have so many worker processes; returns when new ones are started and others have ended.

        Raises `ChangeRefused` for a drive without workers, `ChangeUnfinished` where the host starts no more.
        """
        if self._processes.worker_count == 0:
            raise ChangeRefused("count", "this engine has no workers (--io-engine=sync)")
        try:
            await self._processes.set_worker_count(count)
        except WorkersMissing as error:
            raise ChangeUnfinished("count", str(error)) from error
        finally:
            self._publication.save()
