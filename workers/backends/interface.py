"""What a block backend is: where a drive's bytes are kept.

`BlockBackend` is all that a user's own class has to offer; `ringblk.workers.backends.loader` finds it by
name. The backends that come with ringblk are compiled (`native.pyx`) and fulfil it too.
"""

from typing import Protocol, runtime_checkable


class BackendError(Exception):
    """A backend can't be had as asked for. The message is one line that names it; show it and end."""


class BaseImageError(BackendError):
    """A base can't be had as asked for, or is not what it was; as `BackendError`."""


@runtime_checkable
class BlockBackend(Protocol):
    """A drive's storage, as the engine calls it.

    The object is made once, before the workers are forked; every worker then works on its own copy of
    it, several at a time. What they are to share must lie outside of the process (a file, a server) or
    in shared memory (`mmap.mmap(-1, size)`). Offsets and sizes are in bytes, mostly multiples of 512;
    everything asked for lies within `size_bytes`.

    A buffer is a piece of guest memory, valid only until the method returns: fill all of it or copy from it,
    don't keep it. When a method returns, what it was asked for is done, and it returns None. Anything else
    (how much of a buffer was done, a coroutine) becomes an I/O error for the guest and a log line, as an
    exception does; methods that are `async def` or have a `yield` in them are refused at the start.

    Workers come when there is work and go after some seconds without. Where an attribute `keeps_worker` is
    True, one is there whenever a guest is: for a class whose workers take long to start.

    Four more methods are used where they exist:
    `discard(offset_bytes: int, size_bytes: int) -> None`, the guest no longer needs this range;
    `write_zeroes(offset_bytes: int, size_bytes: int) -> None`, else zeroes go through `write_at`;
    `start_worker() -> None`, called once in each worker before its first request;
    `close() -> None`, called once in the process that made the object, when all others have ended: at the
    engine's end, and at a start that fails once the object is made. An exception makes the engine's exit
    status 1. Workers' copies are not closed, and no copy is when the engine is killed by SIGKILL.
    """

    @property
    def size_bytes(self) -> int:
        """How large the drive is: a multiple of 512, and not 0. An int, read once."""

    @property
    def read_only(self) -> bool:
        """Whether the guest may only read: True or False, read once."""

    def read_at(self, offset_bytes: int, buffer: memoryview, /) -> None:
        """Fill `buffer`, a writable view of bytes, from `offset_bytes` on."""

    def write_at(self, offset_bytes: int, buffer: memoryview, /) -> None:
        """Store `buffer`, a read-only view of bytes, at `offset_bytes`."""

    def flush(self) -> None:
        """Return when everything written so far would survive a power cut."""
