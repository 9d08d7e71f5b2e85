"""The front ends that have connected and wait for their turn, while another is served.

They are accepted at once: a connection that nobody has accepted may hold descriptors that nobody can see, the
served one's own end among them (`descriptor_seal`). What they send is sealed where it is, and read when it is
their turn.
"""

import asyncio
import collections
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable

from ringblk.engine.vhost_user.descriptor_seal import is_read_by_peer, look_ahead, seal_unread, take_inline
from ringblk.engine.vhost_user.messages import BadMessage
from ringblk.engine.vhost_user.socket_keeper import NOTHING_KEPT, SocketKeeper
from ringblk.shm.platform.news_set import NewsSet

MAX_WAITING = 8
"""More are turned away."""
RETRY_S = 0.5
"""How long to let be a socket whose connections cannot be taken."""

_log = logging.getLogger(__name__)


class WaitingFrontends:
    """Accepts on a listening socket, the caller's, and gives out one connection after the other."""

    def __init__(
        self,
        listening: socket.socket,
        place: str = "",
        keeper: SocketKeeper = NOTHING_KEPT,
        came: Iterable[socket.socket] = (),
    ) -> None:
        """The keeper has each until it is let go of, as those that a process before this one has accepted."""
        self.on_seal: Callable[[], None] | None = None
        """Called when sockets were sealed: the served front end's own end may have been one of them."""
        self._listening = listening
        self._place = place
        self._keeper = keeper
        self._ends: collections.OrderedDict[int, socket.socket] = collections.OrderedDict()
        self._arrived = asyncio.Event()
        self._news: NewsSet | None = None  # from the first on: a drive at rest has no descriptor for it
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening.fileno(), self._accept)
        for connected in came:
            self._let_in(connected)

    async def next(self) -> socket.socket:
        """The one that has waited longest, the caller's from then on; the keeper has it still."""
        while not self._ends:
            await self.wait()
        fd, connected = self._ends.popitem(last=False)
        self._open_news().remove(fd)
        look_ahead(connected, begin=False)
        return connected

    async def wait(self) -> None:
        """Return once one waits."""
        while not self._ends:
            self._arrived.clear()
            await self._arrived.wait()

    def close(self) -> None:
        """Turn all away."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listening.fileno())
        if self._news is not None:
            self._loop.remove_reader(self._news.fileno())
            self._news.close()
        while self._ends:
            turn_away(self._ends.popitem()[1], self._keeper)

    def _accept(self) -> None:
        for _ in range(MAX_WAITING):  # the loop has other things to do; what is left is told again
            try:
                self._open_news()
                connected, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:  # EMFILE and its like pass
                _log.error("cannot take a front end's connection: %s; trying again", error.strerror or error)
                self._loop.remove_reader(self._listening.fileno())
                self._retry = self._loop.call_later(
                    RETRY_S, self._loop.add_reader, self._listening.fileno(), self._accept
                )
                return
            if len(self._ends) >= MAX_WAITING:
                _log.warning("a front end is turned away: %d others wait", len(self._ends))
                connected.close()
                continue
            self._keeper.keep(connected, self._place)
            self._let_in(connected)

    def _open_news(self) -> NewsSet:
        """Raises `OSError`."""
        if self._news is None:
            self._news = NewsSet()
            self._loop.add_reader(self._news.fileno(), self._look)
        return self._news

    def _let_in(self, connected: socket.socket) -> None:
        take_inline(connected)
        look_ahead(connected, begin=True)
        connected.setblocking(False)
        self._ends[connected.fileno()] = connected
        # Each arrival is an event of its own: what came before stays unread.
        self._open_news().add(connected.fileno())
        self._arrived.set()

    def _look(self) -> None:
        """Something was sent by those who wait, or they have gone."""
        is_changed = False
        for fd, has_hung_up, _ in self._open_news().look():
            if fd not in self._ends:
                continue
            if has_hung_up:
                self._drop(fd)
                continue
            try:
                is_changed |= seal_unread(self._ends[fd])
            except (BadMessage, OSError) as error:
                _log.error("a front end that waits is turned away: %s", error)
                self._drop(fd)
                is_changed = True  # others may have been sealed before
        if is_changed:
            for fd in [fd for fd, end in self._ends.items() if not is_read_by_peer(end)]:
                self._drop(fd)
            if self.on_seal is not None:
                self.on_seal()

    def _drop(self, fd: int) -> None:
        connected = self._ends.pop(fd)
        with contextlib.suppress(OSError):
            self._open_news().remove(fd)
        turn_away(connected, self._keeper)


def turn_away(connected: socket.socket, keeper: SocketKeeper) -> None:
    """Close a connection, of which nothing was taken in hand."""
    keeper.let_go(connected)
    with contextlib.suppress(OSError):  # its other end has gone
        connected.shutdown(socket.SHUT_RDWR)  # the keeper may have it for a moment longer
    connected.close()
