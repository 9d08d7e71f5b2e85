"""All that is being carried out comes to its end before something is done that ends it, and is answered."""

import asyncio
import contextlib
from collections.abc import Mapping

from ringblk.engine.control.http_connection import HttpConnection, HttpLimits


class Settlement:
    """What stands before the last answer (`HttpAnswer.then`): `run`; `join` is for who wants the same."""

    def __init__(self, limits: HttpLimits) -> None:
        self._others: Mapping[HttpConnection, asyncio.Task[None]] = {}
        self._limits = limits
        self._joined: set[HttpConnection] = set()
        loop = asyncio.get_running_loop()
        self._joining: asyncio.Future[None] = loop.create_future()
        self._refusal: asyncio.Future[str] = loop.create_future()

    async def join(self, connection: HttpConnection) -> str:
        """What it has come to, for an answer that would be the last itself: nobody waits for that."""
        self._joined.add(connection)
        if not self._joining.done():
            self._joining.set_result(None)
        return await self._refusal

    async def run(self, others: Mapping[HttpConnection, asyncio.Task[None]]) -> str:
        """Wait, but not for ever: what is being carried out still; empty where nothing is.

        `others` are all but the connection of the last answer; nobody else is accepted meanwhile.
        """
        self._others = others
        for connection in others:
            connection.end_soon()
        await self._wait(self._limits.coming_s)
        for connection in self._others:
            if connection.is_reading:
                connection.abort()
        await self._wait(self._limits.settle_s)
        late = [connection.work for connection in self._others if connection.is_at_work]
        refusal = ""
        if late:
            refusal = f"being carried out still after {self._limits.settle_s:g} s: {', '.join(late)}"
        self._refusal.set_result(refusal)
        if self._joined:  # they are answered first
            joined = [task for connection, task in self._others.items() if connection in self._joined]
            await asyncio.wait(joined, timeout=self._limits.coming_s)
        return refusal

    async def _wait(self, limit_s: float) -> None:
        """Until all others have ended, or wait for this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while left := self._left():
                    await asyncio.wait([*left, self._joining], return_when=asyncio.FIRST_COMPLETED)
                    if self._joining.done():
                        self._joining = asyncio.get_running_loop().create_future()

    def _left(self) -> list[asyncio.Task[None]]:
        return [
            task
            for connection, task in self._others.items()
            if not task.done() and connection not in self._joined
        ]
