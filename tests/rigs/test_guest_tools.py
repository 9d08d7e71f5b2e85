"""What guests exercise files with finds nothing wrong with a right file, and what is wrong with another."""

import contextlib
import subprocess
from pathlib import Path

from tests.rigs.engine_rig import DEADLINE_S
from tests.rigs.guest_tools import build_program


def test_a_right_file_is_right_and_a_wrong_one_is_not(shm_path: Path) -> None:
    """Wrong: somebody else overwrites it."""
    program = build_program("file_exerciser", shm_path)
    path = shm_path / "exercised"
    done = subprocess.run([program, path, "1", "2000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert all(int(line.split()[1]) for line in done.stdout.splitlines())
    with subprocess.Popen([program, path, "1", str(1 << 40)], stdout=subprocess.PIPE, text=True) as wrong:
        while wrong.poll() is None:
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                file.write(b"somebody else")
        said = wrong.communicate(timeout=DEADLINE_S)[0]
    assert wrong.returncode == 1, said
    assert said.startswith(("byte ", "operation ", "the size "))
