"""`ringblk crashes`: a program that keeps what it says is found right, and one that does not, wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "ringblk.crashes"]
PROGRAM = """
import os, sys
folder, how = sys.argv[1:]
for number in range(5):
    with open(f"{folder}/new", "w") as file:
        file.write(str(number) * 3000)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{folder}/new", f"{folder}/value")
    if how == "right":
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    print(number, flush=True)
"""
CHECK = """
import os, sys
kept = os.environ["RINGBLK_CRASHES_MARKS"].split()
try:
    content = open(f"{sys.argv[1]}/value").read()
except FileNotFoundError:
    content = ""
least = int(kept[-1]) if kept else -1
possible = [str(number) * 3000 for number in range(max(0, least), 5)] + ([""] if least < 0 else [])
sys.exit(0 if content in possible else 3)
"""


def crashes(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
    if "takes root" in done.stderr or "takes a file system" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.parametrize("how", ["right", "wrong"])
def test_a_program_is_recorded_and_checked(shm_path: Path, how: str) -> None:
    folder, record = shm_path / "folder", shm_path / "record"
    folder.mkdir()
    done = crashes("record", folder, record, "--", sys.executable, "-c", PROGRAM, folder, how)
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]
    check = ("check", "--states=60", record, "--", sys.executable, "-S", "-c", CHECK, "{}")
    if how == "right":
        assert crashes(*check).stdout == "60 states, all as they may be\n"
        return
    told = crashes(*check, status=1).stderr
    assert "is wrong (3)" in told
    number = told.split("state ")[1].split()[0]
    crashes("make", record, number, shm_path / "state")
    again = subprocess.run(
        [sys.executable, "-c", CHECK, shm_path / "state"], check=False, env={"RINGBLK_CRASHES_MARKS": "4"}
    )
    assert again.returncode == 3


def test_what_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    for arguments in (
        ("record", tmp_path / "none", tmp_path / "record", "true"),
        ("check", tmp_path, "true"),
    ):
        told = crashes(*arguments, status=1).stderr
        assert told.startswith("ringblk crashes: ")
        assert told.count("\n") == 1
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "tree.json").write_text("{")
    (tmp_path / "events").touch()
    assert "is no record" in crashes("make", tmp_path, "1", tmp_path / "target", status=1).stderr
