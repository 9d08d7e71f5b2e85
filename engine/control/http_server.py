"""HTTP on a listening socket: clients that are slow, broken or many harm nobody else."""

import asyncio
import socket

from ringblk.engine.control.http_connection import Answering, HttpConnection, HttpLimits
from ringblk.engine.control.http_messages import error_answer

SHUTDOWN_S = 0.5
"""How long requests that are being carried out may go on once the server ends."""
LIMITS = HttpLimits()


class HttpServer:
    """Answers all clients of a socket until it is closed."""

    def __init__(self, end: socket.socket, answer: Answering, limits: HttpLimits = LIMITS) -> None:
        self._socket = end
        self._answer = answer
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._connections: dict[HttpConnection, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Begin to serve."""
        self._server = await asyncio.start_server(self._welcome, sock=self._socket)

    async def close(self) -> None:
        """End, after what is being carried out where that does not take long."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.end()
        tasks = list(self._connections.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = HttpConnection(reader, writer, self._answer, self._limits)
        if not self._has_room():
            connection.turn_away(
                error_answer(503, f"{self._limits.connections} requests are being carried out")
            )
            return
        task = asyncio.get_running_loop().create_task(connection.serve())
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._connections.pop(connection))

    def _has_room(self) -> bool:
        """Whether there is room for one more, if need be in place of one that waits for its client."""
        living = [connection for connection in self._connections if not connection.has_ended]
        if len(living) < self._limits.connections:
            return True
        waiting = [connection for connection in living if not connection.is_at_work]
        if not waiting:
            return False
        longest = min(waiting, key=lambda connection: connection.waits_since_s)
        longest.abort()
        return True
