"""The control API of an engine that has a list of drives."""

from ringblk.engine.control.drive_messages import (
    DriveAnswer,
    DrivePatch,
    DrivePut,
    DrivesAnswer,
    UpgradeAnswer,
)
from ringblk.engine.control.drives_control import DrivesControl
from ringblk.engine.control.routes import Call, Created, Last, Route
from ringblk.engine.drives.changes import ChangeRefused
from ringblk.engine.statistics.statistics import StatisticsSnapshot

_FORCE = {"": True, "true": True, "1": True, "false": False, "0": False}


class DriveRoutes:
    """`/drives` and all below it; 409 for an engine that is for one drive."""

    def __init__(self, control: DrivesControl) -> None:
        self._control = control

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route(
                method="GET",
                path="/drives",
                summary="All drives: their settings and their states",
                handler=self._list,
                answer_type=DrivesAnswer,
            ),
            Route(
                method="GET",
                path="/drives/{id}",
                summary="A drive's settings as they are now, as PUT takes them, and its state",
                handler=self._get,
                answer_type=DriveAnswer,
            ),
            Route(
                method="PUT",
                path="/drives/{id}",
                summary="Have a drive with these settings: begin it (201), or change what differs",
                handler=self._put,
                body_type=DrivePut,
                answer_type=DriveAnswer,
                may_create=True,
            ),
            Route(
                method="PATCH",
                path="/drives/{id}",
                summary="Change what the body names: all of it, or nothing",
                handler=self._patch,
                body_type=DrivePatch,
                answer_type=DriveAnswer,
            ),
            Route(
                method="DELETE",
                path="/drives/{id}",
                summary="End a drive once what is in flight is done; with force=true at once",
                handler=self._delete,
                query=("force",),
            ),
            Route(
                method="POST",
                path="/drives/{id}/upgrade",
                summary="Put processes of this program in the place of a drive's; its guest sees a pause",
                handler=self._renew,
                answer_type=DriveAnswer,
            ),
            Route(
                method="GET",
                path="/upgrade",
                summary="The program that the control plane is, and drives whose processes are of one before",
                handler=self._program,
                answer_type=UpgradeAnswer,
            ),
            Route(
                method="POST",
                path="/upgrade",
                summary="Have the control plane go on as the program that is installed now; no guest notices",
                handler=self._upgrade,
                answer_type=UpgradeAnswer,
            ),
            Route(
                method="GET",
                path="/drives/{id}/stats",
                summary="A drive's counters and latency percentiles",
                handler=self._stats,
                answer_type=StatisticsSnapshot,
            ),
        ]

    async def _list(self, call: Call) -> DrivesAnswer:
        return self._control.describe_all()

    async def _get(self, call: Call) -> DriveAnswer:
        return self._control.describe(call.values["id"])

    async def _put(self, call: Call) -> DriveAnswer | Created:
        name = call.values["id"]
        is_new = await self._control.put(name, call.body)
        answer = self._control.describe(name)
        return Created(answer) if is_new else answer

    async def _patch(self, call: Call) -> DriveAnswer:
        name = call.values["id"]
        await self._control.patch(name, call.body)
        return self._control.describe(name)

    async def _delete(self, call: Call) -> None:
        force = call.query.get("force", "false")
        if force not in _FORCE:
            raise ChangeRefused("force", f"{force} is neither true nor false")
        await self._control.delete(call.values["id"], drains=not _FORCE[force])

    async def _renew(self, call: Call) -> DriveAnswer:
        name = call.values["id"]
        await self._control.renew(name)
        return self._control.describe(name)

    async def _program(self, call: Call) -> UpgradeAnswer:
        return self._control.program()

    async def _upgrade(self, call: Call) -> Last:
        answer, carry_out = await self._control.upgrade()
        return Last(answer, carry_out)

    async def _stats(self, call: Call) -> StatisticsSnapshot:
        return self._control.snapshot(call.values["id"])
