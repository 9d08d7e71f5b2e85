"""An HTTP server of the control API's kind, and clients that say to it what they like."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from ringblk.engine.control.http_connection import HttpLimits
from ringblk.engine.control.http_messages import HttpAnswer, HttpRequest
from ringblk.engine.control.http_server import HttpServer
from tests.rigs.control_client import TIMEOUT_S

AT_ONCE = HttpLimits(idle_s=0.01, head_s=0.01, body_s=0.01, answer_s=0.01, linger_s=0.01)
SMALL = HttpLimits(head_bytes=1000, body_bytes=100)
GET = b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST / HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers.get("content-length", "0")) if has_body else 0)
        return int(head[0].split()[1]), headers, body

    async def is_over(self) -> bool:
        """Once the server has ended it."""
        return await self.reader.read() == b""


class Http:
    """A server whose answer is the request, and clients of it."""

    server: HttpServer

    def __init__(self, path: Path) -> None:
        self._path = path
        self.handler: Callable[[HttpRequest], Awaitable[HttpAnswer]] = self.echo

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        return await self.handler(request)

    async def echo(self, request: HttpRequest) -> HttpAnswer:
        return HttpAnswer(200, msgspec.json.encode([request.method, request.target, request.body.decode()]))

    async def connect(self) -> Client:
        return Client(*await asyncio.open_unix_connection(str(self._path)))


@asynccontextmanager
async def serving(folder: Path, limits: HttpLimits) -> AsyncIterator[Http]:
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))
        end.listen()
        http = Http(path)
        server = HttpServer(end, http.answer, limits)
        http.server = server
        await server.start()
        async with asyncio.timeout(TIMEOUT_S):
            yield http
        await server.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}


def run(folder: Path, steps: Callable[[Http], Awaitable[None]], limits: HttpLimits = SMALL) -> None:
    async def all_steps() -> None:
        async with serving(folder, limits) as http:
            await steps(http)

    asyncio.run(all_steps())
