"""What others know of a drive: its processes by its segment, a successor by its record."""

import os

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.device_face import DeviceFace
from ringblk.engine.drives.record import RecordKeeper, now_ns, socket_digest
from ringblk.engine.drives.running_settings import DriveIdentity, DriveRecord
from ringblk.engine.drives.settings import DriveSettings
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.state.segment import StateSegment


class Publication:
    """Call `publish` or `save` after each change and before anybody is told that it was made."""

    def __init__(
        self,
        name: str,
        config: DriveConfig,
        identity: DriveIdentity,
        device: DeviceFace,
        state: StateSegment,
        settings: DriveSettings,
    ) -> None:
        """Make the record, with what is taken over. Raises `ProgramError` where there is no room for it."""
        self._name = name
        self._config = config
        self._identity = identity
        self._device = device
        self._state = state
        self._settings = settings
        self._socket = socket_digest(config)
        try:
            self._keeper = RecordKeeper(self._record())
        except OSError as error:
            raise ProgramError(
                f"no room for the drive's record in shared memory: {error}", ExitStatus.FAILED
            ) from error

    def publish(self) -> None:
        """The device has changed: have requests checked against it as it is now, and the record say so."""
        self._device.publish(self._state)
        self.save()

    def save(self) -> None:
        """Have the record say how the drive is set now."""
        self._keeper.save(self._record())

    def fileno(self) -> int:
        """The descriptor of the record."""
        return self._keeper.fileno()

    def close(self, *, goes_on: bool) -> None:
        """The drive goes on with another engine, or not: leave the record or remove it."""
        self._keeper.close(goes_on=goes_on)

    def _record(self) -> DriveRecord:
        return DriveRecord(
            pid=os.getpid(),
            written_ns=now_ns(),
            drive=self._identity,
            name=self._name,
            socket=self._socket,
            is_read_only=self._device.read_only,
            capacity_bytes=self._device.capacity_bytes,
            rate_group=self._config.rate_group,
            driver_writeback=self._device.driver_writeback,
            settings=self._settings.changed(),
        )
