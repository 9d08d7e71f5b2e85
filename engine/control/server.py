"""The control API on a unix socket, for `curl --unix-socket` and programs.

Imported only where `--control` is given: no other engine pays for it.
"""

from ringblk.engine.control.api import ControlApi
from ringblk.engine.control.engine_control import EngineControl
from ringblk.engine.control.http_connection import HttpLimits
from ringblk.engine.control.http_server import LIMITS, HttpServer
from ringblk.engine.vhost_user.listener import listen_or_go_on, remove_socket, socket_identity
from ringblk.engine.vhost_user.socket_keeper import NOTHING_KEPT, SocketKeeper

OWNER_ONLY = 0o177


class ControlServer:
    """Serves one engine's control API until it is closed."""

    def __init__(
        self, control: EngineControl, socket_path: str, limits: HttpLimits, keeper: SocketKeeper
    ) -> None:
        self._path = socket_path
        self._keeper = keeper
        self._socket = listen_or_go_on("--control", socket_path, keeper, mode_mask=OWNER_ONLY)
        self._identity = socket_identity(socket_path)
        self._http = HttpServer(self._socket, ControlApi(control).answer, limits)

    async def start(self) -> None:
        """Begin to serve."""
        await self._http.start()

    async def close(self) -> None:
        """End, and remove the socket's name if it is ours still."""
        remove_socket(self._path, self._identity)
        self._keeper.let_go(self._socket)
        await self._http.close()
        self._socket.close()


async def serve_control(
    control: EngineControl,
    socket_path: str,
    limits: HttpLimits = LIMITS,
    keeper: SocketKeeper = NOTHING_KEPT,
) -> ControlServer:
    """Open the socket and serve; the keeper has it for the next engine. Raises `ProgramError`."""
    server = ControlServer(control, socket_path, limits, keeper)
    await server.start()
    return server
