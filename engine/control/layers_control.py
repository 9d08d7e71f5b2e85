"""What the control API does to the layers of an engine's drives, without HTTP."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ringblk.engine.base.log_format import drive_in_log
from ringblk.engine.control.drives_control import DrivesControl
from ringblk.engine.control.layer_messages import ChangedAnswer
from ringblk.engine.drives.changes import ChangeRefused
from ringblk.engine.drives.drives import DriveConflict, DriveRefused
from ringblk.engine.drives.layer_reports import Snapshot

if TYPE_CHECKING:
    from ringblk.engine.drives.layers import DriveLayers


class LayersControl:
    """By the drives' names. Raises as `DrivesControl.running`, and `DriveRefused` for other drives."""

    def __init__(self, drives: DrivesControl) -> None:
        self._drives = drives

    def layers(self, name: str) -> "DriveLayers":
        """Those of one drive."""
        layers = self._drives.running(name).layers
        if layers is None:
            raise DriveRefused(f"drive {name} has no overlay: only those have snapshots")
        return layers

    async def snapshots(self, name: str) -> list[Snapshot]:
        """Those of one drive."""
        layers = self.layers(name)
        await layers.wait_told()
        return layers.snapshots()

    async def take(self, names: Sequence[str], snapshot: str) -> list[Snapshot]:
        """Of several drives at one instant. Raises `ChangeRefused`, `DeviceError`."""
        if not names:
            raise ChangeRefused("drives", "names no drive")
        from ringblk.engine.drives.joint_snapshot import (
            take_snapshots,  # what it needs is loaded with a drive
        )

        drives = [self.layers(name) for name in sorted(set(names))]
        await take_snapshots(drives, snapshot)
        return [each.snapshot(snapshot) for each in drives]

    async def reset(self, name: str, snapshot: str | None, *, force: bool) -> None:
        """To a snapshot, or the base. Raises as `DriveLayers.reset`, and `DriveConflict`."""
        drive, layers = self._drives.running(name), self.layers(name)
        if drive.is_connected and not force:
            raise DriveConflict(
                f"drive {name} has a front end, whose guest may have in memory what is gone then:"
                " force resets it all the same",
                "force",
            )
        with drive_in_log(name):
            await layers.reset(snapshot)
            drive.tell_size()

    async def changed(self, name: str, since: str) -> ChangedAnswer:
        """What has changed since a snapshot. Raises as `DriveLayers.changed_since`."""
        if not since:
            raise ChangeRefused("since", "say which snapshot")
        extents = await self.layers(name).changed_since(since)
        return ChangedAnswer(since, self._drives.running(name).device.capacity_bytes, extents)
