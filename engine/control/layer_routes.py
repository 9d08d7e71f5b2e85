"""The control API of copy-on-write drives: snapshots, and what becomes of layers."""

from ringblk.engine.control.drive_messages import DriveAnswer
from ringblk.engine.control.drives_control import DrivesControl
from ringblk.engine.control.layer_messages import (
    ChangedAnswer,
    JobPatch,
    ResetBody,
    SnapshotBody,
    SnapshotsAnswer,
    SnapshotsBody,
)
from ringblk.engine.control.layers_control import LayersControl
from ringblk.engine.control.routes import Call, Created, Route
from ringblk.engine.drives.layer_reports import Snapshot


class LayerRoutes:
    """What lies below `/drives/{id}`, and `/snapshots`."""

    def __init__(self, drives: DrivesControl) -> None:
        self._drives = drives
        self._control = LayersControl(drives)

    def routes(self) -> list[Route]:
        """All of them."""
        return [*self._snapshot_routes(), *self._merge_routes()]

    def _snapshot_routes(self) -> list[Route]:
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
            Route(
                method="DELETE",
                path="/drives/{id}/snapshots/{name}",
                summary="Have no such snapshot; its blocks are merged into what lies above it",
                handler=self._delete,
            ),
            Route(
                method="GET",
                path="/drives/{id}/changed",
                summary="What has changed since a snapshot, as extents",
                handler=self._changed,
                answer_type=ChangedAnswer,
                query=("since",),
            ),
        ]

    def _merge_routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                path="/drives/{id}/commit",
                summary="Have the newest snapshot be as the drive is now",
                handler=self._commit,
                answer_type=DriveAnswer,
            ),
            Route(
                method="POST",
                path="/drives/{id}/flatten",
                summary="Have a drive need its base no more: copy what it reads from there",
                handler=self._flatten,
                answer_type=DriveAnswer,
            ),
            Route(
                method="PATCH",
                path="/drives/{id}/job",
                summary="How quickly a drive's layers are merged",
                handler=self._limit,
                body_type=JobPatch,
                answer_type=DriveAnswer,
            ),
            Route(
                method="DELETE",
                path="/drives/{id}/job",
                summary="Stop merging layers; what is not flat yet stays so",
                handler=self._cancel,
            ),
        ]

    async def _list(self, call: Call) -> SnapshotsAnswer:
        return SnapshotsAnswer(await self._control.snapshots(call.values["id"]))

    async def _take(self, call: Call) -> Created:
        (snapshot,) = await self._control.take([call.values["id"]], call.body.name)
        return Created(snapshot)

    async def _take_all(self, call: Call) -> Created:
        return Created(SnapshotsAnswer(await self._control.take(call.body.drives, call.body.name)))

    async def _reset(self, call: Call) -> DriveAnswer:
        name = call.values["id"]
        await self._control.reset(name, call.body.snapshot, force=call.body.force)
        return self._drives.describe(name)

    async def _delete(self, call: Call) -> None:
        await self._control.layers(call.values["id"]).delete(call.values["name"])

    async def _commit(self, call: Call) -> DriveAnswer:
        await self._control.layers(call.values["id"]).commit_top()
        return self._drives.describe(call.values["id"])

    async def _flatten(self, call: Call) -> DriveAnswer:
        await self._control.layers(call.values["id"]).flatten()
        return self._drives.describe(call.values["id"])

    async def _limit(self, call: Call) -> DriveAnswer:
        self._control.layers(call.values["id"]).limit_jobs(call.body.bps)
        return self._drives.describe(call.values["id"])

    async def _cancel(self, call: Call) -> None:
        await self._control.layers(call.values["id"]).cancel_jobs()

    async def _changed(self, call: Call) -> ChangedAnswer:
        since = call.query.get("since", "")
        return await self._control.changed(call.values["id"], since)
