"""What the control API does to the drives of an engine that has a list of them, without HTTP."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from ringblk.engine.base.log_format import drive_in_log
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.version import VERSION
from ringblk.engine.control.body_changes import change_of
from ringblk.engine.control.drive_messages import (
    DriveAnswer,
    DrivePatch,
    DrivePut,
    DrivesAnswer,
    DriveStatus,
    UpgradeAnswer,
)
from ringblk.engine.drives.changes import ChangeRefused, DriveChange
from ringblk.engine.drives.current_config import (
    current_config,
    fixed_differences,
    limit_differences,
    settable_differences,
)
from ringblk.engine.drives.drive import Drive
from ringblk.engine.drives.drives import (
    DriveBusy,
    DriveConflict,
    DriveRefused,
    EngineDrive,
    EngineDrives,
    NoSuchDrive,
    OtherEngine,
)
from ringblk.engine.options.config import check_drive
from ringblk.engine.statistics.statistics import StatisticsSnapshot, take_snapshot

if TYPE_CHECKING:
    from ringblk.engine.drives.layers import DriveLayers


class DrivesControl:
    """The drives of one engine, by name. All of it raises `OtherEngine` where the engine is for one drive."""

    def __init__(self, drives: EngineDrives) -> None:
        self._all = drives

    @property
    def _drives(self) -> EngineDrives:
        if self._all.is_sole:
            raise OtherEngine("this engine is for one drive, and GET / tells of it: it has no list of drives")
        return self._all

    # What there is

    def describe_all(self) -> DrivesAnswer:
        """All drives."""
        return DrivesAnswer({served.name: _describe(served) for served in self._drives})

    def describe(self, name: str) -> DriveAnswer:
        """One drive. Raises `NoSuchDrive`."""
        return _describe(self._drives.get(name))

    def snapshot(self, name: str) -> StatisticsSnapshot:
        """One drive's statistics. Raises `NoSuchDrive`, `DriveBusy`."""
        drive = self._drives.get(name).drive
        if drive is None:
            raise DriveBusy(f"drive {name} is not there any more, or not yet")
        return snapshot_of(drive)

    def snapshots(self) -> Iterator[StatisticsSnapshot]:
        """The statistics of all drives that have any, one after the other: each takes some hundred KiB."""
        for served in self._drives:
            if served.drive is not None:
                yield snapshot_of(served.drive)

    def running(self, name: str) -> Drive:
        """The drive itself, if it can be changed. Raises `NoSuchDrive`, `DriveBusy`."""
        return _running(self._drives.get(name))

    # Upgrades

    def program(self) -> UpgradeAnswer:
        """Which program this is."""
        outdated = [
            served.name
            for served in self._drives
            if served.drive is not None and served.drive.processes.are_outdated
        ]
        return UpgradeAnswer(VERSION, self._drives.upgrade.program_id, outdated)

    async def upgrade(self) -> tuple[UpgradeAnswer, Callable[[], None]]:
        """See that the program that is installed can go on; what it is, and what has it do so.

        Raises `UpgradeRefused`.
        """
        version = await self._drives.upgrade.check(self._drives)
        answer = msgspec.structs.replace(self.program(), version=version)
        return answer, partial(self._drives.upgrade.carry_out, self._drives)

    async def renew(self, name: str) -> None:
        """Put other processes in the place of a drive's. Raises `NoSuchDrive`, `DriveBusy`, `DeviceError`."""
        drive = self.running(name)
        with drive_in_log(name):
            await drive.processes.renew()

    # What changes

    async def put(self, name: str, body: DrivePut) -> bool:
        """Have a drive with these settings, and no others; whether it is new.

        Raises `DriveRefused`, and `DriveConflict` for what cannot be changed while it runs; `DriveBusy`; and
        what `patch` raises.
        """
        config = body.config()
        try:
            served = self._drives.get(name)
        except NoSuchDrive:
            await self._drives.add(name, config)
            return True
        if served.state in ("failed", "ended"):
            await self._drives.replace(name, config)
            return False
        drive = _running(served)
        try:
            check_drive(name, config)
        except ProgramError as error:
            raise DriveRefused(str(error)) from error
        before = current_config(drive)
        if fixed := fixed_differences(before, config):
            raise DriveConflict(
                f"drive {name}: {', '.join(fixed)} cannot be changed while it runs: DELETE it, then PUT it",
                fixed[0],
            )
        settable = settable_differences(before, config)
        workers = settable.pop("workers", UNSET)
        buckets = limit_differences(drive.limits.current, config)
        if settable or buckets or workers is not UNSET:
            change = msgspec.convert(settable, DriveChange)
            await _change(name, drive, msgspec.structs.replace(change, buckets=buckets), workers, UNSET)
        return False

    async def patch(self, name: str, body: DrivePatch) -> None:
        """Change what the body names: all of it, or nothing.

        Raises `NoSuchDrive`, `DriveBusy`, `ChangeRefused`, `RateGroupBusy`, and
        `DeviceError` where a pause was undone before it was complete.
        """
        drive = _running(self._drives.get(name))
        await _change(name, drive, change_of(body), body.workers, body.is_paused)

    async def delete(self, name: str, *, drains: bool) -> None:
        """End a drive. Raises `NoSuchDrive`, `DriveBusy`."""
        await self._drives.remove(name, drains=drains)


async def _change(
    name: str,
    drive: Drive,
    change: DriveChange,
    workers: int | UnsetType,
    is_paused: bool | UnsetType,
) -> None:
    """What the host may not have comes first, and goes back where something else is refused."""
    with drive_in_log(name):
        former_count = drive.processes.worker_count
        if isinstance(workers, int) and workers != former_count:
            try:
                await drive.changes.set_worker_count(workers)
            except ChangeRefused as error:
                raise ChangeRefused("workers", error.reason) from error
        try:
            if drive.layers is not None and change.size is not UNSET:
                await _grow(drive.layers, change.size)
                await drive.changes.apply(msgspec.structs.replace(change, size=UNSET))
            else:
                await drive.changes.apply(change)
        except BaseException:
            if drive.processes.worker_count != former_count:
                await drive.changes.set_worker_count(former_count)
            raise
        if change.size is not UNSET:
            drive.tell_size()
        if is_paused is True:
            await drive.changes.pause()
        elif is_paused is False:
            await drive.changes.resume()


async def _grow(layers: "DriveLayers", size: int | str) -> None:
    if not isinstance(size, int):
        raise ChangeRefused(
            "size_bytes", "a copy-on-write drive has no image that somebody else makes larger"
        )
    await layers.grow(size)


def _running(served: EngineDrive) -> Drive:
    """The drive itself, if it can be changed. Raises `DriveBusy`."""
    if served.state != "running" or served.drive is None:
        reason = f": {served.reason}" if served.reason else ""
        raise DriveBusy(f"drive {served.name} is not running but {served.state}{reason}")
    return served.drive


def _describe(served: EngineDrive) -> DriveAnswer:
    drive = served.drive
    config = served.config if drive is None else current_config(drive)
    status = DriveStatus(name=served.name, state=served.state, reason=served.reason)
    if drive is not None:
        status = msgspec.structs.replace(
            status,
            storage=drive.config.storage_name,
            size_bytes=drive.device.capacity_bytes,
            read_only=drive.device.read_only,
            is_paused=drive.settings.is_paused,
            is_connected=drive.is_connected,
            uptime_s=(time.monotonic_ns() - drive.started_ns) / 1e9,
            direct=drive.facts.direct,
            direct_reason=drive.facts.direct_reason,
            io_engine=drive.facts.io_engine,
            io_engine_reason=drive.facts.io_engine_reason,
            sandbox=drive.facts.sandbox,
            limits=drive.limits.limit.limited,
            processes=drive.processes.pids,
            server=drive.news.server(),
            base=drive.news.base(),
            job=None if drive.layers is None else drive.layers.jobs.status,
            is_outdated=drive.processes.are_outdated,
        )
    return DriveAnswer(**msgspec.structs.asdict(config), state=status)


def snapshot_of(drive: Drive) -> StatisticsSnapshot:
    """Its statistics, with what its control plane alone can tell."""
    return msgspec.structs.replace(
        take_snapshot(drive.state), server=drive.news.server(), base=drive.news.base()
    )
