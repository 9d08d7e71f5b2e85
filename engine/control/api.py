"""The control API: its routes, and every error in one form."""

import logging

from ringblk.engine.control.engine_control import EngineControl
from ringblk.engine.control.http_messages import HttpAnswer, HttpRequest, error_answer
from ringblk.engine.control.messages import DriveBody, EngineDescription, WorkersBody, decode_body
from ringblk.engine.control.routes import Call, NoSuchPath, NotAllowed, Route, RouteTable
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.drives.changes import ChangeRefused, ChangeUnfinished
from ringblk.engine.statistics.metrics import CONTENT_TYPE, Exposition
from ringblk.engine.statistics.statistics import StatisticsSnapshot, encode_json
from ringblk.shm.rates.group import RateGroupBusy

_log = logging.getLogger(__name__)


class ControlApi:
    """Answers HTTP requests with what one engine says and does."""

    def __init__(self, control: EngineControl) -> None:
        self._control = control
        self.table = RouteTable(self._routes())

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        """Carry out a request, or say why not."""
        try:
            return await self._carry_out(request)
        except NoSuchPath:
            return error_answer(404, f"there is no {request.target}")
        except NotAllowed as error:
            reason = f"{request.target} takes {error.allowed}, not {request.method}"
            return error_answer(405, reason, headers={"Allow": error.allowed})
        except ChangeRefused as error:
            return error_answer(400, str(error), error.field)
        except ChangeUnfinished as error:
            _log.error("%s %s: %s", request.method, request.target, error)
            return error_answer(503, str(error), error.field)
        except (DeviceError, RateGroupBusy) as error:
            return error_answer(409, str(error))
        except Exception as error:
            _log.exception("%s %s failed", request.method, request.target)
            return error_answer(500, f"{type(error).__name__}: see the engine's log")

    async def _carry_out(self, request: HttpRequest) -> HttpAnswer:
        route, values, query = self.table.find(request)
        for name in query:
            if name not in route.query:
                raise ChangeRefused(name, f"{route.method} {route.path} takes no such parameter")
        body = None if route.body_type is None else decode_body(request.body, route.body_type)
        done = await route.handler(Call(values, query, body))
        if done is None:
            return HttpAnswer(204)
        data = done if isinstance(done, bytes) else encode_json(done) + b"\n"
        return HttpAnswer(200, data, route.content_type)

    def _routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                path="/",
                summary="Who this engine is and how it is set",
                handler=self._describe,
                answer_type=EngineDescription,
            ),
            Route(
                method="GET",
                path="/stats",
                summary="Counters and latency percentiles",
                handler=self._stats,
                answer_type=StatisticsSnapshot,
            ),
            Route(
                method="GET",
                path="/metrics",
                summary="Counters and histograms in Prometheus's text format",
                handler=self._metrics,
                answer_type=bytes,
                content_type=CONTENT_TYPE,
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

    async def _stats(self, call: Call) -> StatisticsSnapshot:
        return self._control.snapshot()

    async def _metrics(self, call: Call) -> bytes:
        exposition = Exposition()
        exposition.add(self._control.snapshot(), self._control.engine_name)
        return exposition.encoded()

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
