"""The control API: its routes, and every error in one form."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ringblk.engine.control.drive_messages import StatisticsAnswer
from ringblk.engine.control.drive_routes import DriveRoutes
from ringblk.engine.control.engine_control import EngineControl
from ringblk.engine.control.http_messages import HttpAnswer, HttpRequest, error_answer
from ringblk.engine.control.layer_routes import LayerRoutes
from ringblk.engine.control.messages import decode_body
from ringblk.engine.control.routes import Call, Created, Last, NoSuchPath, NotAllowed, Route, RouteTable
from ringblk.engine.control.sole_routes import SoleRoutes
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.drives.changes import ChangeRefused
from ringblk.engine.drives.drives import (
    DriveBusy,
    DriveConflict,
    DriveRefused,
    NoSuchDrive,
    OtherEngine,
    UpgradeRefused,
)
from ringblk.engine.drives.layer_reports import NoSuchSnapshot
from ringblk.engine.statistics.metrics import CONTENT_TYPE, Exposition
from ringblk.engine.statistics.statistics import StatisticsSnapshot, encode_json
from ringblk.shm.rates.group import RateGroupBusy

_log = logging.getLogger(__name__)


class ControlApi:
    """Answers HTTP requests with what one engine says and does."""

    def __init__(self, control: EngineControl) -> None:
        self._control = control
        self.table = RouteTable(
            [
                *SoleRoutes(control).routes(),
                *DriveRoutes(control.drives).routes(),
                *LayerRoutes(control.drives).routes(),
                *self._routes(),
            ]
        )

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
        except (NoSuchDrive, NoSuchSnapshot) as error:
            return error_answer(404, str(error))
        except DriveConflict as error:
            return error_answer(409, str(error), error.field)
        except DriveRefused as error:
            return error_answer(400, str(error), error.field)
        except (DeviceError, RateGroupBusy, DriveBusy, OtherEngine, UpgradeRefused) as error:
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
        status = 200
        if isinstance(done, Created):
            status, done = 201, done.body
        then: Callable[[], None] | None = None
        if isinstance(done, Last):
            then = done.then
            done = done.body
        data = done if isinstance(done, bytes) else encode_json(done) + b"\n"
        return HttpAnswer(status, data, route.content_type, then=then)

    def _routes(self) -> list[Route]:
        """Those of every engine."""
        return [
            Route(
                method="GET",
                path="/stats",
                summary="Counters and latency percentiles of all drives",
                handler=self._stats,
                answer_type=StatisticsSnapshot | StatisticsAnswer,
            ),
            Route(
                method="GET",
                path="/metrics",
                summary="Counters and histograms of all drives in Prometheus's text format",
                handler=self._metrics,
                answer_type=bytes,
                content_type=CONTENT_TYPE,
            ),
            Route(
                method="GET",
                path="/openapi.json",
                summary="This API in OpenAPI's words",
                handler=self._openapi,
                answer_type=dict[str, Any],
            ),
        ]

    async def _stats(self, call: Call) -> StatisticsSnapshot | bytes:
        if self._control.is_sole:
            return self._control.snapshot()
        parts = []
        for snapshot in self._control.drives.snapshots():
            parts.append(encode_json(snapshot.drive) + b":" + encode_json(snapshot))
            await asyncio.sleep(0)  # others go on between hundreds of drives
        return b'{"drives":{' + b",".join(parts) + b"}}\n"

    async def _openapi(self, call: Call) -> dict[str, Any]:
        from ringblk.engine.control.openapi import openapi_document  # asked for once in a while

        return openapi_document(self.table.routes)

    async def _metrics(self, call: Call) -> bytes:
        exposition = Exposition()
        if self._control.is_sole:
            exposition.add(self._control.snapshot())
            return exposition.encoded()
        for snapshot in self._control.drives.snapshots():
            exposition.add(snapshot)
            await asyncio.sleep(0)
        return exposition.encoded()
