"""Programs that tests start: none outlives the tests, however these end."""

import contextlib
import os
import select
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any


def ends_with_tests(command: Sequence[str]) -> list[str]:
    """The command, run so that it is killed when the process (its starting thread) that starts it is gone."""
    return ["setpriv", "--pdeathsig", "KILL", *command]


def wait_end(process: "subprocess.Popen[Any]", timeout_s: float) -> int:
    """The exit status, at once: `Popen.wait` with a time limit looks every 50 ms in the end.

    Raises `subprocess.TimeoutExpired`.
    """
    if process.poll() is None:
        pidfd = os.pidfd_open(process.pid)  # a child that nobody has reaped
        try:
            select.select([pidfd], [], [], timeout_s)
        finally:
            os.close(pidfd)
    return process.wait(0)


def environment_with_path(*folders: str) -> dict[str, str]:
    """This process's environment, with these folders in front of what Python's path already has."""
    path = [*folders, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


@contextlib.contextmanager
def forked_holder() -> Iterator[None]:
    """A forked child that has open what this process has now, until the end of the block."""
    end_read, end_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end_write)
        os.read(end_read, 1)
        os._exit(0)
    os.close(end_read)
    yield
    os.close(end_write)
    os.waitpid(child, 0)
