"""What a drive goes on with of the record that the engine before has left, and what it cannot."""

import logging

import msgspec

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.device_face import DeviceFace
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.drives.record import FoundRecord
from ringblk.engine.drives.running_settings import RunningSettings, limit_words
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend

_log = logging.getLogger(__name__)


def take_settings(plan: DrivePlan, found: FoundRecord) -> RunningSettings:
    """What of an earlier engine's record this one goes on with; the log says that, and what it cannot."""
    record, settings = found.record, found.record.settings
    config, device = plan.config, plan.device
    device.remember_writeback(record.driver_writeback)
    if plan.options.forget_changes:
        if settings != RunningSettings():
            _log.info("forgotten, as asked: %s", ", ".join(settings.words()))
        return RunningSettings()
    problems = []
    if settings.limits and config.rate_group is not None:
        problems.append(f"limits ({', '.join(limit_words(settings.limits))}): the group's hold")
        settings = msgspec.structs.replace(settings, limits={})
    if settings.workers is not None and (problem := _workers_problem(plan, settings.workers)):
        problems.append(f"{settings.workers} workers: {problem}")
        settings = msgspec.structs.replace(settings, workers=None)
    if settings.is_paused and plan.options.control is None:
        problems.append("paused: without --control nobody could resume it")
        settings = msgspec.structs.replace(settings, is_paused=False)
    if settings.size_bytes is not None and (problem := _take_size(plan.backend, device, settings.size_bytes)):
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
    if record.driver_writeback is not None and device.capacity_bytes < record.capacity_bytes:
        _log.warning("the drive had %d bytes for its guest before, and has fewer now", record.capacity_bytes)
    return settings


def _workers_problem(plan: DrivePlan, count: int) -> str:
    if not plan.io.uses_workers:
        return "this engine has none"
    try:
        plan.open_files.reserve(plan.name, count, plan.config.virtqueue_count)
    except ProgramError as error:
        return str(error)
    return ""


def _take_size(backend: NativeBackend, device: DeviceFace, size_bytes: int) -> str:
    """Make the drive as large as it was made before; why that cannot be, or nothing."""
    try:
        if backend.size_bytes != size_bytes:
            backend.resize(size_bytes)
    except (BackendError, OSError) as error:
        return str(error)
    device.set_capacity(size_bytes)
    return ""
