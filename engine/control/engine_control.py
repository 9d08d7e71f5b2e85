"""What the control API does to an engine that is for one drive, without HTTP."""

from typing import Any

from msgspec import UNSET

from ringblk.engine.base.version import VERSION
from ringblk.engine.control.body_changes import change_of
from ringblk.engine.control.drives_control import DrivesControl, snapshot_of
from ringblk.engine.control.messages import DriveBody, DriveDescription, EngineDescription, WorkersBody
from ringblk.engine.drives.drive import Drive
from ringblk.engine.drives.drives import EngineDrives, OtherEngine
from ringblk.engine.options.drive_names import SOLE_DRIVE
from ringblk.engine.options.rate_limiter_config import patch_from_settings
from ringblk.engine.statistics.statistics import StatisticsSnapshot


class EngineControl:
    """One engine with its only drive: descriptions, statistics and changes.

    All of it raises `OtherEngine` where the engine has a list of drives.
    """

    def __init__(self, drives: EngineDrives) -> None:
        self.drives = DrivesControl(drives)
        """What there is to be said and done by the drives' names."""
        self._drives = drives

    @property
    def is_sole(self) -> bool:
        """Whether it is an engine for one drive."""
        return self._drives.is_sole

    @property
    def _drive(self) -> Drive:
        """The only drive of an engine that is for one: what /drive, /workers and all else mean."""
        if not self._drives.is_sole:
            raise OtherEngine("this engine has a list of drives: ask for /drives/{id}")
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
            workers_up=snapshot.workers_up,
            server=snapshot.server,
            base=snapshot.base,
            processes={"supervisor": snapshot.supervisor_pid, **drive.processes.pids},
        )

    def snapshot(self) -> StatisticsSnapshot:
        """The engine's statistics now."""
        return snapshot_of(self._drive)

    async def patch_drive(self, body: DriveBody) -> None:
        """Change size, cache mode, limits and what else the body names: all of it, or nothing.

        Raises `ChangeRefused` and `RateGroupBusy`; nothing was changed then.
        """
        await self._drive.changes.apply(change_of(body))
        if body.size_bytes is not UNSET:
            self._drive.tell_size()

    async def patch_workers(self, body: WorkersBody) -> None:
        """Have at most so many workers. Raises `ChangeRefused`."""
        await self._drive.changes.set_worker_count(body.count)

    async def pause(self) -> None:
        """Begin no more requests; returns when nothing is in flight. Raises `DeviceError`."""
        await self._drive.changes.pause()

    async def resume(self) -> None:
        """Go on."""
        await self._drive.changes.resume()
