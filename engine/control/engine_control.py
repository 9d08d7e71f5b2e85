"""What the control API does to its engine, without HTTP: descriptions, statistics and changes."""

import os
from typing import Any

from msgspec import UNSET

from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.version import VERSION
from ringblk.engine.control.messages import DriveBody, DriveDescription, EngineDescription, WorkersBody
from ringblk.engine.drives.changes import ChangeRefused, DriveChange
from ringblk.engine.drives.drive import Drive
from ringblk.engine.drives.drives import EngineDrives
from ringblk.engine.options.drive_names import SOLE_DRIVE
from ringblk.engine.options.rate_limiter_config import (
    RateLimiterError,
    buckets_from_config,
    buckets_from_patch,
    patch_from_settings,
)
from ringblk.engine.statistics.statistics import StatisticsSnapshot, take_snapshot
from ringblk.shm.rates.bucket_settings import BucketSettings


class EngineControl:
    """One engine as the control API sees it."""

    def __init__(self, socket_path: str, drives: EngineDrives) -> None:
        self.engine_name = printable(os.path.abspath(socket_path))
        """The API's socket: no other engine of the machine has it, and the next one here has it again."""
        self._drives = drives

    @property
    def _drive(self) -> Drive:
        """The only drive of an engine that is for one: what /drive, /workers and all else mean."""
        drive = self._drives.get(SOLE_DRIVE).drive
        assert drive is not None, "its engine ends with it"
        return drive

    def describe(self) -> EngineDescription:
        """Who this engine is and how it is set."""
        snapshot, drive = self.snapshot(), self._drive
        facts, settings = drive.facts, drive.settings
        limits: dict[str, Any] = patch_from_settings(drive.limits.current)
        return EngineDescription(
            version=VERSION,
            device="block",
            socket_path=drive.config.socket_path,
            drive=DriveDescription(
                name=snapshot.storage,
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
        await self._drive.changes.apply(
            DriveChange(
                size=body.size_bytes,
                cache=body.cache,
                buckets=_buckets_of(body),
                is_root_device=body.is_root_device,
                partuuid=body.partuuid,
            )
        )
        if body.size_bytes is not UNSET:
            self._drive.tell_size()

    async def patch_workers(self, body: WorkersBody) -> None:
        """Have so many workers. Raises `ChangeRefused` and `ChangeUnfinished`."""
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
