"""Descriptors that tell of each arrival once: what lies there unread is no news.

Linux has epoll(7) for that (EPOLLET), macOS kqueue(2) (EV_CLEAR). The set is a descriptor itself, readable
while there is news, so that an event loop can wait for all of it.
"""

import select
import sys
from types import TracebackType
from typing import NamedTuple


class News(NamedTuple):
    """What is to be told of a descriptor."""

    fd: int
    has_hung_up: bool
    """The other end is closed."""
    is_writable: bool


class NewsSet:
    """Descriptors, the caller's. Close it in the end. Calls raise `OSError`."""

    if sys.platform == "darwin":

        def __init__(self) -> None:
            self._queue = select.kqueue()

        def add(self, fd: int, *, with_writable: bool = False) -> None:
            """Tell of what arrives at `fd`, of its other end's going, and of room to write if asked for."""
            self._change(fd, select.KQ_FILTER_READ, select.KQ_EV_ADD | select.KQ_EV_CLEAR)
            if with_writable:
                self._change(fd, select.KQ_FILTER_WRITE, select.KQ_EV_ADD | select.KQ_EV_CLEAR)

        add_hang_up = add
        """Tell of its other end's going, which may come with other news."""

        def remove(self, fd: int) -> None:
            """Tell nothing of `fd` any more."""
            self._change(fd, select.KQ_FILTER_READ, select.KQ_EV_DELETE)

        def _change(self, fd: int, kind: int, flags: int) -> None:
            self._queue.control([select.kevent(fd, kind, flags)], 0, 0)

        def look(self) -> list[News]:
            """What has happened since the last look."""
            return [
                News(
                    event.ident,
                    bool(event.flags & select.KQ_EV_EOF),
                    event.filter == select.KQ_FILTER_WRITE,
                )
                for event in self._queue.control(None, 64, 0)
            ]

    else:

        def __init__(self) -> None:
            self._queue = select.epoll()

        def add(self, fd: int, *, with_writable: bool = False) -> None:
            """Tell of what arrives at `fd`, of its other end's going, and of room to write if asked for."""
            wanted = select.EPOLLIN | (select.EPOLLOUT if with_writable else 0)
            self._queue.register(fd, wanted | select.EPOLLET)

        def add_hang_up(self, fd: int) -> None:
            """Tell of its other end's going, which may come with other news."""
            self._queue.register(fd, select.EPOLLHUP)

        def remove(self, fd: int) -> None:
            """Tell nothing of `fd` any more."""
            self._queue.unregister(fd)

        def look(self) -> list[News]:
            """What has happened since the last look."""
            return [
                News(fd, bool(events & select.EPOLLHUP), bool(events & select.EPOLLOUT))
                for fd, events in self._queue.poll(0)
            ]

    def fileno(self) -> int:
        """Readable while there is news."""
        return self._queue.fileno()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._queue.closed

    def close(self) -> None:
        """Watch no more. May be called again."""
        self._queue.close()

    def __enter__(self) -> "NewsSet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
