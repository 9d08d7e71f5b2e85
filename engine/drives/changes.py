"""What can be changed about a drive while it is used: size, cache mode, limits, pause, number of workers."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.dispatcher.messages import Pause, Resume
from ringblk.engine.drives.limits import DriveLimits
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.drives.publication import Publication
from ringblk.engine.drives.settings import USER, DriveSettings
from ringblk.engine.options.drive_config import CacheMode
from ringblk.engine.supervisor.drive_model import DriveModel
from ringblk.engine.supervisor.drive_processes import DriveProcesses
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.group import LOCK_WAIT_S, RateGroupBusy
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.image_lock import ImageLocked
from ringblk.workers.backends.interface import BackendError

LOOK_AGAIN_S = 0.01
RESIZE = "resize"
"""Who holds a pause while the drive shrinks."""

_log = logging.getLogger(__name__)


class ChangeRefused(Exception):  # noqa: N818
    """The change cannot be made and nothing was changed: `field` names what to ask for differently."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class DriveChange(msgspec.Struct, frozen=True, kw_only=True):
    """What is to change about a drive. UNSET: it stays as it is."""

    size: int | Literal["image"] | UnsetType = UNSET
    """In bytes, or what its image has now."""
    cache: CacheMode | UnsetType = UNSET
    buckets: Mapping[str, BucketSettings | None] = {}
    """Limits by bucket; None takes one away."""
    is_root_device: bool | UnsetType = UNSET
    partuuid: str | UnsetType | None = UNSET


class DriveChanges:
    """Changes to one running drive; those of the same kind are made one after the other."""

    def __init__(
        self,
        plan: DrivePlan,
        state: StateSegment,
        limits: DriveLimits,
        model: DriveModel,
        processes: DriveProcesses,
        settings: DriveSettings,
        publication: Publication,
    ) -> None:
        self._name = plan.name
        self._open_files = plan.open_files
        self._device = plan.device
        self._backend = plan.backend
        self._image_hold = plan.hold
        self._state = state
        self._limits = limits
        self._model = model
        self._processes = processes
        self._settings = settings
        self._publication = publication
        self._lock = asyncio.Lock()

    async def apply(self, change: DriveChange) -> None:
        """Make a change: all of it, or nothing.

        Raises `ChangeRefused` and `RateGroupBusy`; nothing was changed then.
        """
        async with self._lock, contextlib.AsyncExitStack() as prepared:
            set_size = set_limits = None
            if change.size is not UNSET:
                set_size = await prepared.enter_async_context(self._resizing(change.size))
            if change.buckets:
                set_limits = await self._changing_limits(change.buckets, prepared)
            if set_size is not None:
                set_size()  # the host may refuse it: first, and nothing after it can fail
            if change.cache is not UNSET:
                self._device.set_cache(change.cache)  # for what is popped from now on
                self._publication.publish()
            if set_limits is not None:
                set_limits()
                crash_point("control plane: limits set")
            if change.is_root_device is not UNSET:
                self._settings.is_root_device = change.is_root_device
            if change.partuuid is not UNSET:
                self._settings.partuuid = change.partuuid
            self._publication.save()
        if set_limits is not None:
            self._processes.wake_dispatcher()

    async def _changing_limits(
        self, buckets: Mapping[str, BucketSettings | None], prepared: contextlib.AsyncExitStack
    ) -> Callable[[], None]:
        """Wait a while for another member of the group that sets them; the event loop goes on meanwhile."""
        given_up_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                return prepared.enter_context(self._limits.changing(buckets))
            except RateGroupBusy:
                if time.monotonic() >= given_up_s:
                    raise
            await asyncio.sleep(LOOK_AGAIN_S)

    # Pause

    async def pause(self) -> None:
        """Pop nothing more; returns when nothing is in flight.

        Raises `DeviceError` when the engine is resumed before.
        """
        try:
            await self.hold(USER)
        finally:
            self._publication.save()

    async def resume(self) -> None:
        """Pop again, unless a change in progress still needs the pause."""
        await self.release(USER)
        self._publication.save()

    async def hold(self, holder: str) -> None:
        """Pop nothing more for its sake; returns when nothing is in flight. Raises `DeviceError`."""
        self._model.pause_holders.add(holder)
        self._state.set_paused(self._settings.is_paused)
        await self._processes.ask(Pause)

    async def release(self, holder: str) -> None:
        """This holder needs no pause any more."""
        self._model.pause_holders.discard(holder)
        self._state.set_paused(self._settings.is_paused)
        if not self._model.pause_holders:
            await self._processes.ask(Resume)

    # Size

    @contextlib.asynccontextmanager
    async def _resizing(self, size: int | Literal["image"]) -> AsyncIterator[Callable[[], None]]:
        """Prepare to make the drive so many bytes large, or as its image is now; what it gives does so.

        A regular file is extended or cut off. Shrinking waits until nothing is in flight, so that no write
        lands beyond the new end and brings it back. Both raise `ChangeRefused`.
        """
        size_bytes = self._whole_blocks(self._backend_size()) if size == "image" else size
        self._check_size(size_bytes)
        set_size = partial(self._set_size, size_bytes, is_measured=size == "image")
        if size_bytes >= self._device.capacity_bytes:
            yield set_size
            return
        try:
            await self.hold(RESIZE)
            yield set_size
        finally:
            await self.release(RESIZE)

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

    @property
    def capacity_bytes(self) -> int:
        """How large the driver sees the drive."""
        return self._device.capacity_bytes

    def check_growth(self, size_bytes: int) -> None:
        """Raise `ChangeRefused` for a size that a drive of layers cannot have next."""
        self._check_size(size_bytes)
        if size_bytes < self._device.capacity_bytes:
            raise ChangeRefused("size_bytes", "a copy-on-write drive is only made larger")

    @property
    def merge_bps(self) -> int:
        """Bytes a second that merges of layers may copy; 0: as many as they can."""
        return self._settings.merge_bps

    def set_merge_bps(self, bps: int) -> None:
        """Copy so many from now on, in the next engine too."""
        self._settings.merge_bps = bps
        self._publication.publish()

    def note_size(self, size_bytes: int) -> None:
        """The storage has this size now, and keeps it."""
        self._settings.size_bytes = None
        self._device.set_capacity(size_bytes)
        self._publication.publish()

    def _set_size(self, size_bytes: int, *, is_measured: bool) -> None:
        try:
            if not is_measured:
                with self._image_hold.held():
                    self._backend.resize(size_bytes)
        except (BackendError, ImageLocked, OSError) as error:
            raise ChangeRefused("size_bytes", str(error)) from error
        self._settings.size_bytes = None if is_measured else size_bytes
        self._device.set_capacity(size_bytes)
        self._publication.publish()

    # Workers

    async def set_worker_count(self, count: int) -> None:
        """Have at most so many worker processes; returns when others have ended.

        Raises `ChangeRefused` for a drive without workers, and where fewer files may be open than they can
        need.
        """
        if self._processes.worker_count == 0:
            raise ChangeRefused("count", "this engine has no workers (--io-engine=sync)")
        try:
            self._open_files.reserve(self._name, count, self._device.num_queues)
        except ProgramError as error:
            raise ChangeRefused("count", str(error)) from error
        try:
            await self._processes.set_worker_count(count)
        finally:
            self._publication.save()
