"""HTTP on a listening socket: clients that are slow, broken or many harm nobody else."""

import asyncio
import socket
from functools import partial

import msgspec

from ringblk.engine.control.http_connection import Answering, HttpConnection, HttpLimits
from ringblk.engine.control.http_messages import HttpAnswer, error_answer
from ringblk.engine.control.settlement import Settlement

SHUTDOWN_S = 0.5
"""How long requests that are being carried out may go on once the server ends."""
LIMITS = HttpLimits()
_ROUNDS = 5
"""Of the event loop, in which a connection that asyncio has accepted is welcomed."""


class HttpServer:
    """Answers all clients of a socket until it is closed."""

    def __init__(self, end: socket.socket, answer: Answering, limits: HttpLimits = LIMITS) -> None:
        self._socket = end
        self._answer = answer
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._connections: dict[HttpConnection, asyncio.Task[None]] = {}
        self._settlement: Settlement | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._is_ending = False

    async def start(self) -> None:
        """Begin to serve."""
        self._server = await asyncio.start_server(self._welcome, sock=self._socket.dup())

    async def close(self) -> None:
        """End, after what is being carried out where that does not take long."""
        self._is_ending = True
        if self._resuming is not None:
            await self._resuming
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

    async def _settle(self, last: HttpConnection, answer: HttpAnswer) -> HttpAnswer:
        """Have nothing be carried out any more when the last answer is sent; else what is sent in its place.

        Who connects from now on waits in the socket's queue for whoever listens there next.
        """
        if self._settlement is not None:
            refusal = await self._settlement.join(last)
            return _refused(refusal) if refusal else msgspec.structs.replace(answer, then=None)
        self._stop_accepting()
        self._settlement = settlement = Settlement(self._limits)
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
        others = {end: task for end, task in self._connections.items() if end is not last}
        if refusal := await settlement.run(others):
            self._resume()
            return _refused(refusal)
        return msgspec.structs.replace(answer, then=partial(self._do_last, answer))

    def _stop_accepting(self) -> None:
        """Nobody is accepted any more; all that were are among the connections some rounds later."""
        assert self._server is not None, "it serves"
        for end in self._server.sockets:
            asyncio.get_running_loop().remove_reader(end.fileno())

    def _do_last(self, answer: HttpAnswer) -> None:
        """What is done behind the last answer; who returns from that goes on serving."""
        assert answer.then is not None, "it is the last"
        if not self._is_ending:
            answer.then()
        self._resume()

    def _resume(self) -> None:
        assert self._server is not None, "it has served"
        if self._is_ending:
            return
        self._server.close()
        self._settlement = None
        self._resuming = asyncio.get_running_loop().create_task(self.start())

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = HttpConnection(reader, writer, self._answer, self._limits, self._settle)
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


def _refused(refusal: str) -> HttpAnswer:
    return error_answer(409, f"{refusal}; try again when that is done")
