"""`ringblk drive` as a person types it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.rigs.engine_rig import DEADLINE_S
from tests.rigs.many_drives import ManyDrives

RINGBLK = str(Path(sys.executable).with_name("ringblk"))


def drive(
    control: Path, command: str, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RINGBLK, "drive", command, f"--control={control}", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
    )


def done(engine: ManyDrives, command: str, *arguments: str, folder: Path | None = None) -> str:
    ended = drive(engine.control.socket_path, command, *arguments, folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def refused(engine: ManyDrives, command: str, *arguments: str, status: int = 1) -> str:
    """One line, and what it says."""
    ended = drive(engine.control.socket_path, command, *arguments)
    assert (ended.returncode, ended.stdout) == (status, "")
    (line,) = ended.stderr.splitlines()
    return line.removeprefix("ringblk: ")
