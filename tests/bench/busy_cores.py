"""A load on every core, to see what spinning does where no core is free for it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def busy_cores() -> Iterator[None]:
    """While it lasts, a process on each CPU does nothing but count."""
    pids = [_burn(cpu) for cpu in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _burn(cpu: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.sched_setaffinity(0, {cpu})
    while os.getppid() > 1:
        for _ in range(1_000_000):
            pass
    os._exit(0)
