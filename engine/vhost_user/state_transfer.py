"""A device's state on its way through a front end's pipe (vhost-user, "Device state transfer").

Fault model: a front end that reads or writes nothing, hangs up, changes the pipe's flags, or has no end. So
a thread does it, which the end of the session ends; one that cannot be ended holds up nobody, and there are
few of them.
"""

import asyncio
import contextlib
import errno
import os
import select
import stat
import threading
from collections.abc import Callable
from functools import partial

from ringblk.engine.base.in_thread import begin_in_thread
from ringblk.engine.devices.device import DeviceError

MAX_STATE_BYTES = 1 << 30
"""Of a state that is taken: four million inodes with long names."""
MAX_THREADS = 64
"""Of all drives of an engine together."""
_PART_BYTES = 1 << 16

_threads = threading.Semaphore(MAX_THREADS)


def pipe_fault(fd: int) -> str | None:
    """What the descriptor is, in words, where it is no pipe and no socket; reading a file may hang."""
    mode = os.fstat(fd).st_mode
    return None if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else "the descriptor is no pipe"


class StateTransfer:
    """One state, given or taken in the background."""

    def __init__(self, fd: int, data: bytes | None) -> None:
        """Give `data`; None: take what comes. `fd` is the transfer's, also when it raises `DeviceError`."""
        self.is_taken = data is None
        """Whether the state comes here."""
        if not _threads.acquire(blocking=False):
            os.close(fd)
            raise DeviceError(f"{MAX_THREADS} states are on their way: try again")
        ended_fd, self._end_fd = os.pipe()
        carry = partial(_take, fd, ended_fd) if data is None else partial(_give, fd, ended_fd, data)
        self._carrying = begin_in_thread(partial(_carry, carry, fd, ended_fd))

    async def finish(self) -> bytes:
        """Wait for its end; what has come. Raises `DeviceError`."""
        try:
            return await self._carrying
        except OSError as error:
            raise DeviceError(f"the state is not whole: {error.strerror or error}") from error

    def close(self) -> None:
        """Have it end, wherever it is."""
        self._carrying.add_done_callback(_look_at)  # nobody else may have
        os.close(self._end_fd)


def _look_at(carrying: "asyncio.Future[bytes]") -> None:
    if not carrying.cancelled():
        carrying.exception()


def _carry(carry: Callable[[], bytes], fd: int, ended_fd: int) -> bytes:
    try:
        os.set_blocking(fd, False)
        return carry()
    finally:
        os.close(fd)
        os.close(ended_fd)
        _threads.release()


def _give(fd: int, ended_fd: int, data: bytes) -> bytes:
    left = memoryview(data)
    while left:
        _wait(fd, select.POLLOUT, ended_fd)
        with contextlib.suppress(BlockingIOError):
            left = left[os.write(fd, left[:_PART_BYTES]) :]
    return b""


def _take(fd: int, ended_fd: int) -> bytes:
    parts: list[bytes] = []
    taken_bytes = 0
    while True:
        _wait(fd, select.POLLIN, ended_fd)
        with contextlib.suppress(BlockingIOError):
            part = os.read(fd, _PART_BYTES)
            if not part:
                return b"".join(parts)
            parts.append(part)
            taken_bytes += len(part)
            if taken_bytes > MAX_STATE_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def _wait(fd: int, events: int, ended_fd: int) -> None:
    """Wait until the pipe goes on. Raises `OSError` where the session has ended."""
    poll = select.poll()
    poll.register(fd, events)
    poll.register(ended_fd, 0)  # its other end is closed
    if ended_fd in dict(poll.poll()):
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
