"""What all of scripts/ have in common: they set up what they need, and start with whatever is closed."""

import itertools
import subprocess
from pathlib import Path

import pytest

from tests.rigs.separate_build import ROOT

FOLDER = ROOT / "scripts"
SCRIPTS = sorted(path for path in FOLDER.iterdir() if path.is_file() and "." not in path.name)
OPENS_STREAMS = '. "$(dirname "$(readlink -f "$0")")/standard_streams.sh"'
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


def commands(script: Path) -> list[str]:
    return [line for line in script.read_text().splitlines() if line and not line.startswith("#")]


@each_script
def test_standard_streams_come_first(script: Path) -> None:
    assert commands(script)[:2] == ["set -euo pipefail", OPENS_STREAMS]


@each_script
def test_what_is_run_is_set_up_before(script: Path) -> None:
    """Whatever runs the project's Python runs `scripts/setup` first; setup-fuzz is run after it."""
    if script.name in ("setup", "setup-fuzz"):
        return
    lines = commands(script)
    users = [number for number, line in enumerate(lines) if ".venv/bin/" in line]
    setups = [number for number, line in enumerate(lines) if line.split()[0].strip('"').endswith("/setup")]
    assert not users or min(setups) < min(users)


@pytest.mark.parametrize(
    "closed", [fds for count in range(4) for fds in itertools.combinations((0, 1, 2), count)], ids=str
)
def test_closed_standard_streams_are_dev_null(closed: tuple[int, ...], tmp_path: Path) -> None:
    script = tmp_path / "script"
    told = tmp_path / "told"
    script.write_text(
        f'#!/bin/bash\nset -euo pipefail\n{OPENS_STREAMS}\nreadlink /proc/$$/fd/{{0,1,2}} >"{told}"\n'
    )
    (tmp_path / "standard_streams.sh").symlink_to(FOLDER / "standard_streams.sh")
    closing = " ".join(f"{fd}<&-" for fd in closed)
    subprocess.run(["/bin/sh", "-c", f"exec /bin/bash {script} {closing}"], check=True, capture_output=True)
    names = told.read_text().splitlines()
    assert {fd for fd in range(3) if names[fd] == "/dev/null"} >= set(closed)
    assert all(names[fd].startswith("pipe:") for fd in {1, 2} - set(closed))
