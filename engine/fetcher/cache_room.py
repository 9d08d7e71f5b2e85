"""Room for what is fetched: how much all sources of a host may take, and which gives way."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator

from ringblk.shm.sync.process import crash_point
from ringblk.workers.fetch.source_form import LOCK, PIN, is_source, read_limit
from ringblk.workers.layers.folder import DATA, LIVE, MAP

_SECTOR_BYTES = 512
_GIVEN_UP = (PIN, LIVE, MAP, DATA)
"""In this order: a live map never stands beside data that are not its own."""


class CacheRoom:
    """As one source's fetcher sees it, by several threads.

    Another source gives way that no fetcher has, the one that was used least recently first. Drives that read
    it all the same, because its fetcher has just died, have its files open.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._cache = os.path.dirname(folder)
        self._lock = threading.Lock()
        self._promised_bytes = 0
        """To those who are writing."""

    @contextlib.contextmanager
    def of(self, needed_bytes: int) -> Iterator[bool]:
        """Whether there is room for so many bytes more, within the limit; they are written meanwhile.

        Raises `LayerDamaged` and `OSError`.
        """
        with self._lock:
            has_room = self._make(needed_bytes)
            self._promised_bytes += needed_bytes
        try:
            yield has_room
        finally:
            with self._lock:
                self._promised_bytes -= needed_bytes

    def _make(self, needed_bytes: int) -> bool:
        limit_bytes = read_limit(self._cache)
        if limit_bytes is None:
            return True
        while self._used_bytes() + self._promised_bytes + needed_bytes > limit_bytes:
            if not self._evict():
                return False
        return True

    def evict(self) -> bool:
        """Have the source give way that was used least recently; False: there is none. Raises `OSError`."""
        with self._lock:
            return self._evict()

    def _folders(self) -> Iterator[str]:
        for name in os.listdir(self._cache):
            folder = os.path.join(self._cache, name)
            if is_source(folder):
                yield folder

    def _used_bytes(self) -> int:
        used_bytes = 0
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):
                used_bytes += os.stat(os.path.join(folder, DATA)).st_blocks * _SECTOR_BYTES
        return used_bytes

    def _evict(self) -> bool:
        others = [folder for folder in self._folders() if folder != self._folder and _has_data(folder)]
        return any(_give_up(folder) for folder in sorted(others, key=_used_ns))


def _has_data(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, DATA))


def _used_ns(folder: str) -> int:
    """When its fetcher was there last."""
    try:
        return os.stat(os.path.join(folder, LOCK)).st_mtime_ns
    except FileNotFoundError:
        return 0


def note_use(lock_fd: int) -> None:
    """The source whose lock this is is being used. Raises `OSError`."""
    os.pwrite(lock_fd, b"\n", 0)


def _give_up(folder: str) -> bool:
    """Remove what was fetched of a source, unless a fetcher has it."""
    lock_fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in _GIVEN_UP:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
            crash_point("fetcher: file of another source removed")
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock_fd)
