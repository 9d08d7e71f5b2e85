"""An image for a guest, and the tools of a host that look into one."""

import subprocess
from pathlib import Path

from scripts.guest_machine import find_program
from tests.rigs.image_file import MIB


def make_image(path: Path, size_bytes: int = 64 * MIB) -> Path:
    with path.open("wb") as image:
        image.truncate(size_bytes)
    return path


def run_on_host(program: str, *arguments: str | Path) -> bytes:
    """The output of one of e2fsprogs' programs, which must end with status 0."""
    path = find_program(program)
    assert path is not None
    done = subprocess.run([path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")
    return done.stdout
