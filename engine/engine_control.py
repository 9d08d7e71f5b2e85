"""What the control API does to its engine, without HTTP: descriptions, statistics and changes."""

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Protocol

from msgspec import UNSET

from ringblk.engine.config import ConfigError, EngineConfig
from ringblk.engine.control_messages import DriveBody, DriveDescription, EngineDescription, WorkersBody
from ringblk.engine.live_changes import ChangeRefused
from ringblk.engine.open_files import reserve_open_files
from ringblk.engine.printable_text import printable
from ringblk.engine.rate_limiter_config import RateLimiterError, buckets_from_config, buckets_from_patch
from ringblk.engine.statistics import StatisticsSnapshot, take_snapshot
from ringblk.engine.supervisor import Supervisor
from ringblk.engine.version import package_version
from ringblk.shm.bucket_settings import BucketSettings
from ringblk.shm.rate_group import LOCK_WAIT_S, RateGroupBusy
from ringblk.shm.rate_limit import RateLimit
from ringblk.shm.state import StateSegment

LOOK_AGAIN_S = 0.01


class LimitSettings(Protocol):
    """Where limits are set: the drive's own `RateLimit`, or the `RateGroup` that it belongs to."""

    def configure_some(self, settings: Mapping[str, BucketSettings | None], now_ns: int) -> None:
        """Set these buckets, full; leave the others as they are. Raises `RateGroupBusy`; try again."""


class EngineControl:
    """One engine as the control API sees it."""

    def __init__(
        self,
        config: EngineConfig,
        supervisor: Supervisor,
        state: StateSegment,
        limit: RateLimit,
        limit_settings: LimitSettings,
    ) -> None:
        assert config.control is not None
        self.engine_name = printable(os.path.abspath(config.control))
        """The API's socket: no other engine of the machine has it, and the next one here has it again."""
        self._config = config
        self._supervisor = supervisor
        self._state = state
        self._limit = limit
        self._limit_settings = limit_settings

    def describe(self) -> EngineDescription:
        """Who this engine is and how it is set."""
        snapshot = self.snapshot()
        return EngineDescription(
            version=package_version(),
            device="block",
            drive=DriveDescription(
                name=snapshot.drive,
                id=self._config.drive_id,
                size_bytes=snapshot.capacity_bytes,
                read_only=self._supervisor.changes.is_read_only,
                cache=self._supervisor.changes.cache,
                num_queues=self._config.num_queues,
                limits=self._limit.limited,
                rate_group=self._config.rate_group,
            ),
            uptime_s=snapshot.uptime_ns / 1e9,
            is_paused=self._supervisor.changes.is_paused,
            is_connected=self._supervisor.changes.notify_config_change is not None,
            processes={"supervisor": snapshot.supervisor_pid, **self._supervisor.pids},
        )

    def snapshot(self) -> StatisticsSnapshot:
        """The engine's statistics now."""
        return take_snapshot(self._state)

    async def patch_drive(self, body: DriveBody) -> None:
        """Change size, cache mode and limits, in this order.

        Raises `ChangeRefused`; nothing was changed then. Raises `RateGroupBusy`; the limits were not changed.
        """
        buckets = _buckets_of(body)
        changes = self._supervisor.changes
        if body.size_bytes is not UNSET:
            await changes.resize(body.size_bytes)
        if body.cache is not UNSET:
            changes.set_cache(body.cache)
        if buckets:
            await self._set_limits(buckets)
            changes.wake_dispatcher()

    async def _set_limits(self, buckets: Mapping[str, BucketSettings | None]) -> None:
        """Wait a while for another member of the group that sets them; the event loop goes on meanwhile."""
        given_up_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                self._limit_settings.configure_some(buckets, time.monotonic_ns())
                return
            except RateGroupBusy:
                if time.monotonic() >= given_up_s:
                    raise
            await asyncio.sleep(LOOK_AGAIN_S)

    async def patch_workers(self, body: WorkersBody) -> None:
        """Have so many workers. Raises `ChangeRefused` and `ChangeUnfinished`."""
        changes = self._supervisor.changes
        if 0 < changes.worker_count < body.count:
            try:
                reserve_open_files(self._config, body.count)
            except ConfigError as error:
                raise ChangeRefused("count", str(error)) from error
        await changes.set_worker_count(body.count)

    async def pause(self) -> None:
        """Begin no more requests; returns when nothing is in flight. Raises `DeviceError`."""
        await self._supervisor.changes.pause()

    async def resume(self) -> None:
        """Go on."""
        await self._supervisor.changes.resume()


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
