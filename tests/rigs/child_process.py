"""Programs that tests start: none outlives the tests, however these end."""

import os
from collections.abc import Sequence


def ends_with_tests(command: Sequence[str]) -> list[str]:
    """The command, run so that it is killed when the process (its starting thread) that starts it is gone."""
    return ["setpriv", "--pdeathsig", "KILL", *command]


def environment_with_path(*folders: str) -> dict[str, str]:
    """This process's environment, with these folders in front of what Python's path already has."""
    path = [*folders, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
