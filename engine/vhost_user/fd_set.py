"""Descriptors of a front end's: those that came with one message, and those that a session holds."""

import os
from collections.abc import Sequence
from types import TracebackType

import msgspec

from ringblk.engine.base.printable_text import printable
from ringblk.shm.platform.wakeups import wakeup_fault

NOT_KEPT_HANDLE = -1
"""The handle of a descriptor that nobody keeps."""


class HeldFd(msgspec.Struct, frozen=True):
    """A descriptor of this process, and what its copy in custody is called (`SessionKeeper.keep`)."""

    fd: int
    handle: int = NOT_KEPT_HANDLE


def close_held(held: HeldFd | None) -> None:
    """Close a descriptor, if there is one. Its copy in custody goes when no state names it."""
    if held is not None:
        os.close(held.fd)


def handle_of(held: HeldFd | None) -> int | None:
    """What its copy in custody is called, where there is one."""
    return None if held is None else held.handle


class FdSet:
    """Fds that came with one message; whatever is not taken is closed at the end of the `with` block."""

    def __init__(self, fds: Sequence[int], handles: Sequence[int] | None = None) -> None:
        self._fds = list(fds)
        self._handles = [NOT_KEPT_HANDLE] * len(self._fds) if handles is None else list(handles)

    def __len__(self) -> int:
        return len(self._fds)

    @property
    def fds(self) -> tuple[int, ...]:
        """Those that have not been taken, which stay where they are."""
        return tuple(self._fds)

    @property
    def handles(self) -> tuple[int, ...]:
        """What the copies of all of them in custody are called."""
        return tuple(self._handles)

    def call_kept(self, handles: Sequence[int]) -> None:
        """Copies of all of them are in custody under these handles."""
        assert len(handles) == len(self._fds)
        self._handles = list(handles)

    def take(self) -> list[int]:
        """Hand over all fds: closing them is the caller's from now on."""
        fds, self._fds = self._fds, []
        return fds

    def take_held(self) -> list[HeldFd]:
        """Hand over all fds with their handles, to be held for as long as the session likes."""
        return [HeldFd(fd, handle) for fd, handle in zip(self.take(), self._handles, strict=True)]

    def eventfd_fault(self, *, is_read: bool) -> str | None:
        """What one of them is that is no wake-up descriptor, in words; None where all are.

        `is_read`: the front end wakes by it, and is not woken.
        """
        for fd in self._fds:
            if fault := wakeup_fault(fd, is_read=is_read):
                return printable(fault)
        return None

    def close(self) -> None:
        """Close what was not taken. May be called again."""
        for fd in self.take():
            os.close(fd)

    def __enter__(self) -> "FdSet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
