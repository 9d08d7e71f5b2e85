"""A file system of a user's own in an engine, and a guest's file system."""

from pathlib import Path

from tests.rigs.engine_rig import Engine
from tests.rigs.share import PROGRAM, ShareFrontend


class Served:
    """An engine and a guest's file system."""

    def __init__(self, *options: str) -> None:
        self.engine = Engine("--tag=test", *options, program=PROGRAM)
        self.guest = ShareFrontend(self.engine)

    def close(self) -> None:
        self.guest.close()
        self.engine.__exit__(None, None, None)


def kept(tmp_path: Path) -> tuple[str, str]:
    """Options of one that keeps what is done to it."""
    return "--file-system=kept_folder:KeptFolder", f"--file-system-arg=path={tmp_path / 'tree'}"
