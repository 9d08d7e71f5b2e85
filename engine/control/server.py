"""The control API: HTTP with JSON bodies on a unix socket, for `curl --unix-socket` and programs.

Imported only where `--control` is given: the libraries it stands on are larger than the engine.
"""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ringblk.engine.control.engine_control import EngineControl
from ringblk.engine.control.messages import (
    DriveBody,
    ErrorBody,
    WorkersBody,
    decode_body,
    encode_body,
)
from ringblk.engine.control.metrics import exposition
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.drives.changes import ChangeRefused, ChangeUnfinished
from ringblk.engine.statistics.statistics import encode_json
from ringblk.engine.vhost_user.listener import listen_at, remove_socket, socket_identity
from ringblk.shm.rates.group import RateGroupBusy

MAX_BODY_BYTES = 65536
OWNER_ONLY = 0o177
SHUTDOWN_S = 0.5

_log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlServer:
    """Serves one engine's control API until it is closed."""

    def __init__(self, control: EngineControl, socket_path: str) -> None:
        self._control = control
        self._path = socket_path
        self._socket = listen_at("--control", socket_path, mode_mask=OWNER_ONLY)
        self._identity = socket_identity(socket_path)
        application = web.Application(middlewares=[_answer_errors], client_max_size=MAX_BODY_BYTES)
        application.add_routes(
            [
                web.get("/", self._describe),
                web.get("/stats", self._stats),
                web.get("/metrics", self._metrics),
                web.patch("/drive", self._patch_drive),
                web.patch("/workers", self._patch_workers),
                web.post("/pause", self._pause),
                web.post("/resume", self._resume),
            ]
        )
        server_logger.addFilter(_say_in_one_line)
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S
        )

    async def start(self) -> None:
        """Begin to serve."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def close(self) -> None:
        """End, and remove the socket's name if it is ours still."""
        remove_socket(self._path, self._identity)
        await self._runner.cleanup()
        self._socket.close()

    async def _describe(self, request: web.Request) -> web.Response:
        return _json(encode_body(self._control.describe()))

    async def _stats(self, request: web.Request) -> web.Response:
        return _json(encode_json(self._control.snapshot()) + b"\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        body = exposition(self._control.snapshot(), self._control.engine_name)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _patch_drive(self, request: web.Request) -> web.Response:
        await self._control.patch_drive(decode_body(await request.read(), DriveBody))
        return await self._describe(request)

    async def _patch_workers(self, request: web.Request) -> web.Response:
        await self._control.patch_workers(decode_body(await request.read(), WorkersBody))
        return await self._describe(request)

    async def _pause(self, request: web.Request) -> web.Response:
        await self._control.pause()
        return await self._describe(request)

    async def _resume(self, request: web.Request) -> web.Response:
        await self._control.resume()
        return await self._describe(request)


@web.middleware
async def _answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every error in the same form: JSON with `error`, and `field` where one is at fault."""
    try:
        return await handler(request)
    except ChangeRefused as error:
        return _json(encode_body(ErrorBody(str(error), error.field)), status=400)
    except ChangeUnfinished as error:
        _log.error("%s %s: %s", request.method, request.path, error)
        return _json(encode_body(ErrorBody(str(error), error.field)), status=503)
    except (DeviceError, RateGroupBusy) as error:
        return _json(encode_body(ErrorBody(str(error))), status=409)
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _json(encode_body(ErrorBody(error.reason)), status=error.status, headers=headers)
    except (web.RequestPayloadError, ConnectionError):  # nobody may be left to read this
        return _json(encode_body(ErrorBody("the body is not what its headers say")), status=400)
    except Exception as error:
        _log.exception("%s %s failed", request.method, request.path)
        return _json(encode_body(ErrorBody(f"{type(error).__name__}: see the engine's log")), status=500)


def _say_in_one_line(record: logging.LogRecord) -> bool:
    """aiohttp logs tracebacks of what a client sent: make it a line, none where `_answer_errors` answers."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = "the control API was sent no HTTP: %s", (error.message.partition("\n")[0],)
        record.exc_info = None
    return not isinstance(error, (web.RequestPayloadError, ConnectionError))


def _json(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


async def serve_control(control: EngineControl, socket_path: str) -> ControlServer:
    """Open the socket and serve. Raises `ProgramError`."""
    server = ControlServer(control, socket_path)
    await server.start()
    return server
