"""What the control API does to its engine, without HTTP: descriptions, statistics and changes."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET

from ringblk.engine.base.open_files import reserve_open_files
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.version import package_version
from ringblk.engine.control.messages import DriveBody, DriveDescription, EngineDescription, WorkersBody
from ringblk.engine.drives.changes import ChangeRefused
from ringblk.engine.drives.drive import Drive
from ringblk.engine.options.rate_limiter_config import (
    RateLimiterError,
    buckets_from_config,
    buckets_from_patch,
    patch_from_settings,
)
from ringblk.engine.statistics.statistics import StatisticsSnapshot, take_snapshot
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.group import LOCK_WAIT_S, RateGroupBusy

LOOK_AGAIN_S = 0.01


class EngineControl:
    """One engine as the control API sees it."""

    def __init__(self, drive: Drive) -> None:
        assert drive.config.control is not None
        self.engine_name = printable(os.path.abspath(drive.config.control))
        """The API's socket: no other engine of the machine has it, and the next one here has it again."""
        self._drive = drive
        self._changing = asyncio.Lock()

    def describe(self) -> EngineDescription:
        """Who this engine is and how it is set."""
        snapshot, drive = self.snapshot(), self._drive
        facts, settings = drive.facts, drive.settings
        limits: dict[str, Any] = patch_from_settings(drive.limits.current)
        return EngineDescription(
            version=package_version(),
            device="block",
            socket_path=drive.config.socket_path,
            drive=DriveDescription(
                name=snapshot.drive,
                id=drive.config.drive_id,
                size_bytes=snapshot.capacity_bytes,
                read_only=drive.device.read_only,
                cache=drive.device.cache,
                num_queues=drive.config.num_queues,
                is_root_device=settings.is_root_device,
                partuuid=settings.partuuid,
                limits=drive.limits.limit.limited,
                rate_group=drive.config.rate_group,
                **limits,
            ),
            direct=facts.direct,
            direct_reason=facts.direct_reason,
            io_engine=facts.io_engine,
            io_engine_reason=facts.io_engine_reason,
            sandbox=facts.sandbox,
            uptime_s=snapshot.uptime_ns / 1e9,
            is_paused=settings.is_paused,
            is_connected=drive.is_connected,
            worker_count=drive.processes.worker_count,
            processes={"supervisor": snapshot.supervisor_pid, **drive.processes.pids},
        )

    def snapshot(self) -> StatisticsSnapshot:
        """The engine's statistics now."""
        return take_snapshot(self._drive.state)

    async def patch_drive(self, body: DriveBody) -> None:
        """Change size, cache mode, limits and what else the body names: all of it, or nothing.

        Raises `ChangeRefused` and `RateGroupBusy`; nothing was changed then.
        """
        buckets = _buckets_of(body)
        changes, settings = self._drive.changes, self._drive.settings
        async with self._changing, contextlib.AsyncExitStack() as prepared:
            set_size = None
            if body.size_bytes is not UNSET:
                set_size = await prepared.enter_async_context(changes.resizing(body.size_bytes))
            set_limits = await self._changing_limits(buckets, prepared) if buckets else None
            if set_size is not None:
                set_size()  # the host may refuse it: first, and nothing after it can fail
            if body.cache is not UNSET:
                changes.set_cache(body.cache)
            if set_limits is not None:
                set_limits()
            if body.is_root_device is not UNSET:
                settings.is_root_device = body.is_root_device
            if body.partuuid is not UNSET:
                settings.partuuid = body.partuuid
            self._drive.publication.save()
        if set_size is not None:
            self._drive.tell_size()
        if set_limits is not None:
            self._drive.processes.wake_dispatcher()

    async def _changing_limits(
        self, buckets: Mapping[str, BucketSettings | None], prepared: contextlib.AsyncExitStack
    ) -> Callable[[], None]:
        """Wait a while for another member of the group that sets them; the event loop goes on meanwhile."""
        given_up_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                return prepared.enter_context(self._drive.limits.changing(buckets))
            except RateGroupBusy:
                if time.monotonic() >= given_up_s:
                    raise
            await asyncio.sleep(LOOK_AGAIN_S)

    async def patch_workers(self, body: WorkersBody) -> None:
        """Have so many workers. Raises `ChangeRefused` and `ChangeUnfinished`."""
        if 0 < self._drive.processes.worker_count < body.count:
            try:
                reserve_open_files(body.count, self._drive.config.num_queues)
            except ProgramError as error:
                raise ChangeRefused("count", str(error)) from error
        await self._drive.changes.set_worker_count(body.count)

    async def pause(self) -> None:
        """Begin no more requests; returns when nothing is in flight. Raises `DeviceError`."""
        await self._drive.changes.pause()

    async def resume(self) -> None:
        """Go on."""
        await self._drive.changes.resume()


def _buckets_of(body: DriveBody) -> dict[str, BucketSettings | None]:
    plain = body.plain_limits()
    if plain and body.rate_limiter is not UNSET:
        raise ChangeRefused(next(iter(plain)), "give limits in one form: plain ones or rate_limiter")
    try:
        if body.rate_limiter is not UNSET:
            return buckets_from_config(body.rate_limiter)
        return buckets_from_patch(plain)
    except RateLimiterError as error:
        raise ChangeRefused(error.field, str(error).removeprefix(f"{error.field}: ")) from error
