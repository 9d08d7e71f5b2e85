"""How a drive is set while it runs, and what of that differs from what it was started with."""

from ringblk.engine.devices.device_face import DeviceFace
from ringblk.engine.drives.limits import DriveLimits
from ringblk.engine.drives.running_settings import DriveIdentity, RunningSettings
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.supervisor.drive_model import DriveModel
from ringblk.engine.supervisor.drive_processes import DriveProcesses

USER = "user"
"""Who holds a pause that was asked for."""


class DriveSettings:
    """Size, name and all else that can be set: kept here, or with whoever it concerns."""

    def __init__(
        self,
        config: DriveConfig,
        identity: DriveIdentity,
        device: DeviceFace,
        limits: DriveLimits,
        model: DriveModel,
        processes: DriveProcesses,
        taken_over: RunningSettings,
    ) -> None:
        """Begin as an earlier engine of this drive was set; limits and number of workers are so already."""
        self._config = config
        self._keeps_own_size = identity.kind == "image"
        self._device = device
        self._limits = limits
        self._model = model
        self._processes = processes
        self.size_bytes = taken_over.size_bytes
        """The size that was asked for while running, and is not simply what the image has."""
        self.merge_bps = taken_over.merge_bps
        """Bytes a second that merges of layers may copy; 0: as many as they can."""
        self.is_root_device = config.is_root_device
        if taken_over.is_root_device is not None:
            self.is_root_device = taken_over.is_root_device
        self.partuuid = config.partuuid if taken_over.partuuid is None else taken_over.partuuid or None
        if taken_over.cache is not None:
            device.set_cache(taken_over.cache)
        if taken_over.is_paused:
            model.pause_holders.add(USER)

    @property
    def is_paused(self) -> bool:
        """Whether somebody has paused the drive and not resumed it."""
        return USER in self._model.pause_holders

    def changed(self) -> RunningSettings:
        """What differs now from what the drive was started with."""
        config, cache, worker_count = self._config, self._device.cache, self._processes.worker_count
        return RunningSettings(
            limits=self._limits.own_changes,
            cache=None if cache == config.cache else cache,
            workers=worker_count if worker_count not in (0, config.workers) else None,
            is_paused=self.is_paused,
            size_bytes=None if self._keeps_own_size else self.size_bytes,
            is_root_device=None if self.is_root_device == config.is_root_device else self.is_root_device,
            partuuid=None if self.partuuid == config.partuuid else self.partuuid or "",
            merge_bps=self.merge_bps,
        )
