"""Programs that tests start: none outlives the tests, however these end."""

import contextlib
import os
from collections.abc import Iterator, Sequence


def ends_with_tests(command: Sequence[str]) -> list[str]:
    """The command, run so that it is killed when the process (its starting thread) that starts it is gone."""
    return ["setpriv", "--pdeathsig", "KILL", *command]


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
