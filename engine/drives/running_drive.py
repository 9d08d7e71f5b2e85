"""The drive of an engine that runs: how it is set, how it was started, and the record of the difference."""

import logging
import os

import msgspec

from ringblk.engine.base.open_files import reserve_open_files
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.block_device import BlockDevice
from ringblk.engine.devices.io_plan import IoPlan
from ringblk.engine.drives.engine_facts import EngineFacts, first_line
from ringblk.engine.drives.limits import DriveLimits
from ringblk.engine.drives.record import FoundRecord, RecordKeeper, now_ns, socket_digest
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.supervisor.running_settings import (
    DriveIdentity,
    DriveRecord,
    RunningSettings,
    limit_words,
)
from ringblk.engine.supervisor.supervisor import Supervisor
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.topology import SECTOR_BYTES

_log = logging.getLogger(__name__)


class RunningDrive:
    """Call `save` after each change and before it is answered; `leave` in the end."""

    def __init__(
        self,
        config: EngineConfig,
        device: BlockDevice,
        state: StateSegment,
        limits: DriveLimits,
        facts: EngineFacts,
        identity: DriveIdentity,
        settings: RunningSettings,
    ) -> None:
        """Make the record, with what is taken over. Raises `ProgramError` where there is no room for it."""
        self.config = config
        self.state = state
        self.limits = limits
        self.facts = facts
        self.is_root_device = config.is_root_device
        if settings.is_root_device is not None:
            self.is_root_device = settings.is_root_device
        self.partuuid = config.partuuid if settings.partuuid is None else settings.partuuid or None
        self.taken_over = settings
        self._device = device
        self._identity = identity
        self._supervisor: Supervisor | None = None
        try:
            self._keeper = RecordKeeper(self._record())
        except OSError as error:
            raise ProgramError(f"no room for the drive's record in shared memory: {error}", 1) from error

    @property
    def supervisor(self) -> Supervisor:
        """The drive's processes."""
        assert self._supervisor is not None, "attach comes first"
        return self._supervisor

    def first_line(self) -> str:
        """What the engine says of itself at its start."""
        size_bytes = self._device.num_sectors * SECTOR_BYTES
        return first_line(self.config, self.facts, size_bytes, is_read_only=self._device.read_only)

    def attach(self, supervisor: Supervisor) -> None:
        """These are the drive's processes, which have not begun."""
        self._supervisor = supervisor
        supervisor.published.on_change = self.save

    def save(self) -> None:
        """Have the record say how the drive is set now."""
        self._keeper.save(self._record())

    def fileno(self) -> int:
        """The descriptor of its record."""
        return self._keeper.fileno()

    def leave(self, *, goes_on: bool) -> None:
        """The engine ends; the drive goes on with the next or not."""
        self._keeper.close(goes_on=goes_on)

    def _record(self) -> DriveRecord:
        return DriveRecord(
            pid=os.getpid(),
            written_ns=now_ns(),
            drive=self._identity,
            socket=socket_digest(self.config),
            is_read_only=self._device.read_only,
            capacity_bytes=self._device.num_sectors * SECTOR_BYTES,
            rate_group=self.config.rate_group,
            driver_writeback=self._device.driver_writeback,
            settings=self._settings(),
        )

    def _settings(self) -> RunningSettings:
        if self._supervisor is None:
            return self.taken_over
        config, changes = self.config, self._supervisor.changes
        has_own_count = changes.worker_count not in (0, config.workers)
        return RunningSettings(
            limits=self.limits.own_changes,
            cache=None if changes.cache == config.cache else changes.cache,
            workers=changes.worker_count if has_own_count else None,
            is_paused=changes.is_paused,
            size_bytes=None if self._identity.kind == "image" else changes.set_size_bytes,
            is_root_device=None if self.is_root_device == config.is_root_device else self.is_root_device,
            partuuid=None if self.partuuid == config.partuuid else self.partuuid or "",
        )


def take_settings(
    config: EngineConfig, backend: NativeBackend, device: BlockDevice, plan: IoPlan, found: FoundRecord
) -> RunningSettings:
    """What of an earlier engine's record this one goes on with; the log says that, and what it cannot."""
    record, settings = found.record, found.record.settings
    device.remember_writeback(record.driver_writeback)
    if config.forget_changes:
        if settings != RunningSettings():
            _log.info("forgotten, as asked: %s", ", ".join(settings.words()))
        return RunningSettings()
    problems = []
    if settings.limits and config.rate_group is not None:
        problems.append(f"limits ({', '.join(limit_words(settings.limits))}): the group's hold")
        settings = msgspec.structs.replace(settings, limits={})
    if settings.workers is not None and (problem := _workers_problem(config, plan, settings.workers)):
        problems.append(f"{settings.workers} workers: {problem}")
        settings = msgspec.structs.replace(settings, workers=None)
    if settings.is_paused and config.control is None:
        problems.append("paused: without --control nobody could resume it")
        settings = msgspec.structs.replace(settings, is_paused=False)
    if settings.size_bytes is not None and (problem := _take_size(backend, device, settings.size_bytes)):
        problems.append(f"size {settings.size_bytes}: {problem}")
        settings = msgspec.structs.replace(settings, size_bytes=None)
    if words := settings.words():
        _log.info(
            "set while the engine before this one (process %d) ran, and taken over: %s"
            " (--forget-changes begins with the options)",
            record.pid,
            ", ".join(words),
        )
    if problems:
        _log.warning(
            "set while the engine before this one (process %d) ran, and not taken over: %s",
            record.pid,
            "; ".join(problems),
        )
    if record.driver_writeback is not None and device.num_sectors * SECTOR_BYTES < record.capacity_bytes:
        _log.warning("the drive had %d bytes for its guest before, and has fewer now", record.capacity_bytes)
    return settings


def _workers_problem(config: EngineConfig, plan: IoPlan, count: int) -> str:
    if not plan.uses_workers:
        return "this engine has none"
    try:
        reserve_open_files(count, config.num_queues)
    except ProgramError as error:
        return str(error)
    return ""


def _take_size(backend: NativeBackend, device: BlockDevice, size_bytes: int) -> str:
    """Make the drive as large as it was made before; why that cannot be, or nothing."""
    try:
        if backend.size_bytes != size_bytes:
            backend.resize(size_bytes)
    except (BackendError, OSError) as error:
        return str(error)
    device.set_capacity(size_bytes)
    return ""
