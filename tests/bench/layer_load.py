"""Writes that go on while the control API is asked for something."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ringblk import Buffer, Frontend

DEPTH = 32
_BLOCK_BYTES = 4096


class Writer:
    """Keeps writes in flight, and notes the longest time between two completions."""

    def __init__(self, disk: Frontend, size_bytes: int) -> None:
        self._disk = disk
        self._block_count = size_bytes // _BLOCK_BYTES
        self._chance = random.Random(1)
        for _ in range(DEPTH):
            self._submit(disk.allocate(_BLOCK_BYTES, _BLOCK_BYTES))
        disk.submit()

    def _submit(self, buffer: Buffer) -> None:
        offset = self._chance.randrange(self._block_count) * _BLOCK_BYTES
        self._disk.submit_write(offset, buffer)

    def run_until(self, is_over: Callable[[], bool]) -> float:
        """The longest gap, in milliseconds."""
        longest_s, last_s = 0.0, time.perf_counter()
        while not is_over():
            completions = self._disk.poll(1, 0.05)
            if completions:
                now_s = time.perf_counter()
                longest_s, last_s = max(longest_s, now_s - last_s), now_s
            for completion in completions:
                assert completion.buffer is not None
                self._submit(completion.buffer)
            self._disk.submit()
        return longest_s * 1000

    def run_for(self, seconds: float) -> float:
        """The same for some time."""
        end_s = time.perf_counter() + seconds
        return self.run_until(lambda: time.perf_counter() > end_s)

    def drain(self) -> None:
        """Wait for what is in flight."""
        left = DEPTH
        while left:
            left -= len(self._disk.poll(1, 1.0))


class Asking:
    """A call in a thread, of the control API for one."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.took_ms = 0.0
        self._thread = threading.Thread(target=self._ask, args=(call,))
        self._thread.start()

    def _ask(self, call: Callable[[], object]) -> None:
        self.took_ms = timed(call)

    def is_done(self) -> bool:
        """Whether it was answered."""
        return not self._thread.is_alive()


@contextmanager
def asking(call: Callable[[], object]) -> Iterator[Asking]:
    """Ask meanwhile."""
    yield Asking(call)


def timed(call: Callable[[], object]) -> float:
    """How long a call takes, in milliseconds."""
    begin_s = time.perf_counter()
    call()
    return (time.perf_counter() - begin_s) * 1000
