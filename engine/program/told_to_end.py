"""Being told to end while the control plane begins: by an exception, so that its zygote hears of it."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_HELD = (*_SIGNALS, signal.SIGINT)


class _ToldToEnd(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def told_by_exception() -> Iterator[None]:
    """A signal that ends a process by default raises an exception in the block, and ends it behind that."""
    for number in _SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _raise)
    try:
        yield
    except _ToldToEnd as told:
        signal.signal(told.number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [told.number])
        os.kill(os.getpid(), told.number)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    raise _ToldToEnd(number)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Such signals come behind the block."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
