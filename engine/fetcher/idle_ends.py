"""Connections to a source that stand ready for the next read."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What a connection is at least."""

    def close(self) -> None:
        """Hang up."""


End = TypeVar("End", bound=Closable)


class IdleEnds(Generic[End]):
    """For several threads. Where one has failed, all that stand ready are closed: they may be as old."""

    def __init__(self, connect: Callable[[], End]) -> None:
        self._connect = connect
        self._idle: list[End] = []
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[End]:
        """A connection for one read. Raises what `connect` does."""
        with self._lock:
            end = self._idle.pop() if self._idle else None
        if end is None:
            end = self._connect()
        try:
            yield end
        except BaseException:
            end.close()
            self.close()
            raise
        with self._lock:
            self._idle.append(end)

    def close(self) -> None:
        """Hang up on all that stand ready."""
        with self._lock:
            idle, self._idle = self._idle, []
        for end in idle:
            end.close()
