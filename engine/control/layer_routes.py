"""The control API of copy-on-write drives: snapshots, and what becomes of layers."""

from ringblk.engine.control.drive_messages import DriveAnswer
from ringblk.engine.control.drives_control import DrivesControl
from ringblk.engine.control.layer_messages import ResetBody, SnapshotBody, SnapshotsAnswer, SnapshotsBody
from ringblk.engine.control.layers_control import LayersControl
from ringblk.engine.control.routes import Call, Created, Route
from ringblk.engine.drives.layers import Snapshot


class LayerRoutes:
    """What lies below `/drives/{id}`, and `/snapshots`."""

    def __init__(self, drives: DrivesControl) -> None:
        self._drives = drives
        self._control = LayersControl(drives)

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route(
                method="GET",
                path="/drives/{id}/snapshots",
                summary="A copy-on-write drive's snapshots, the oldest first",
                handler=self._list,
                answer_type=SnapshotsAnswer,
            ),
            Route(
                method="POST",
                path="/drives/{id}/snapshots",
                summary="Take a snapshot: all that was completed is in it",
                handler=self._take,
                body_type=SnapshotBody,
                answer_type=Snapshot,
                may_create=True,
            ),
            Route(
                method="POST",
                path="/snapshots",
                summary="Take a snapshot of several drives at one instant",
                handler=self._take_all,
                body_type=SnapshotsBody,
                answer_type=SnapshotsAnswer,
                may_create=True,
            ),
            Route(
                method="POST",
                path="/drives/{id}/reset",
                summary="Have a drive be as it was at a snapshot, or as its base is",
                handler=self._reset,
                body_type=ResetBody,
                answer_type=DriveAnswer,
            ),
        ]

    async def _list(self, call: Call) -> SnapshotsAnswer:
        return SnapshotsAnswer(self._control.snapshots(call.values["id"]))

    async def _take(self, call: Call) -> Created:
        (snapshot,) = await self._control.take([call.values["id"]], call.body.name)
        return Created(snapshot)

    async def _take_all(self, call: Call) -> Created:
        return Created(SnapshotsAnswer(await self._control.take(call.body.drives, call.body.name)))

    async def _reset(self, call: Call) -> DriveAnswer:
        name = call.values["id"]
        await self._control.reset(name, call.body.snapshot, force=call.body.force)
        return self._drives.describe(name)
