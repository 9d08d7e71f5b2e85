"""The control API of an engine that is for one drive."""

from ringblk.engine.control.engine_control import EngineControl
from ringblk.engine.control.messages import DriveBody, EngineDescription, WorkersBody
from ringblk.engine.control.routes import Call, Route


class SoleRoutes:
    """`/`, `/drive`, `/workers`, `/pause` and `/resume`; 409 for an engine with a list of drives."""

    def __init__(self, control: EngineControl) -> None:
        self._control = control

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route(
                method="GET",
                path="/",
                summary="Who this engine is and how it is set",
                handler=self._describe,
                answer_type=EngineDescription,
            ),
            Route(
                method="PATCH",
                path="/drive",
                summary="Change what the body names: all of it, or nothing",
                handler=self._patch_drive,
                body_type=DriveBody,
                answer_type=EngineDescription,
            ),
            Route(
                method="PATCH",
                path="/workers",
                summary="Change the number of worker processes",
                handler=self._patch_workers,
                body_type=WorkersBody,
                answer_type=EngineDescription,
            ),
            Route(
                method="POST",
                path="/pause",
                summary="Begin no more requests; answered when none is in flight",
                handler=self._pause,
                answer_type=EngineDescription,
            ),
            Route(
                method="POST",
                path="/resume",
                summary="Go on",
                handler=self._resume,
                answer_type=EngineDescription,
            ),
        ]

    async def _describe(self, call: Call) -> EngineDescription:
        return self._control.describe()

    async def _patch_drive(self, call: Call) -> EngineDescription:
        await self._control.patch_drive(call.body)
        return self._control.describe()

    async def _patch_workers(self, call: Call) -> EngineDescription:
        await self._control.patch_workers(call.body)
        return self._control.describe()

    async def _pause(self, call: Call) -> EngineDescription:
        await self._control.pause()
        return self._control.describe()

    async def _resume(self, call: Call) -> EngineDescription:
        await self._control.resume()
        return self._control.describe()
