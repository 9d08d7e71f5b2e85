"""News of what comes in at a descriptor, watched once for its whole life.

To be added to the event loop and taken out of it again costs two system calls a message, and a level that is
watched while a message is carried out would be told all the time.
"""

import asyncio

from ringblk.shm.platform.news_set import NewsSet


class Arrivals:
    """Tells one task of what has arrived since it was told last. Belongs to a running event loop."""

    def __init__(self, fd: int) -> None:
        """Watches `fd`, which is the caller's and outlives this. Raises `OSError`."""
        self._news = NewsSet()
        self._news.add(fd)
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._has_news = False
        self._loop.add_reader(self._news.fileno(), self._look)

    def _look(self) -> None:
        self._news.look()
        self._has_news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return once something has arrived, or the peer has gone, after the last time that this returned.

        Whoever is told takes all that there is before it waits again.
        """
        while not self._has_news:
            self._waiter = self._loop.create_future()
            await self._waiter
        self._has_news = False

    def close(self) -> None:
        """Watch no more. May be called again."""
        if not self._news.is_closed:
            self._loop.remove_reader(self._news.fileno())
            self._news.close()
