"""scripts/setup-fuzz looks for what is needed, not for the program that usually brings it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rigs.separate_build import ROOT

CLANG = """\
#!/bin/sh
[ "$1" = -dumpversion ] && { echo 99.1.2; exit; }
exec test -e "$0.runtime"
"""
APT = """\
#!/bin/sh
echo "$@" >>"$0.log"
case "$*" in *libclang-rt-99-dev) [ -e "$0.empty" ] || touch "$(dirname "$0")/clang.runtime" ;; esac
"""


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """A clang without runtime, an apt that brings it, and a copy of the script with a complete .venv."""
    (tmp_path / "scripts").mkdir()
    for name in ("setup-fuzz", "standard_streams.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    for name, text in (("clang", CLANG), ("apt-get", APT), (".venv/bin/python", "#!/bin/sh\n")):
        program = tmp_path / "fakes" / name if "/" not in name else tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    return tmp_path / "fakes"


def setup_fuzz(fakes: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [fakes.parent / "scripts" / "setup-fuzz"],
        env={"PATH": f"{fakes}:{os.environ['PATH']}"},
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs")
def test_the_runtime_of_the_clang_that_is_there_is_installed(fakes: Path) -> None:
    assert setup_fuzz(fakes).returncode == 0
    assert (fakes / "apt-get.log").read_text().splitlines()[1:] == [
        "install -qy --no-install-recommends libclang-rt-99-dev"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs")
def test_a_package_that_does_not_bring_it_is_an_error(fakes: Path) -> None:
    (fakes / "apt-get.empty").touch()
    done = setup_fuzz(fakes)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "setup-fuzz: clang 99.1.2 cannot build with sanitizers"


def test_nothing_is_installed_where_nothing_is_missing(fakes: Path) -> None:
    (fakes / "clang.runtime").touch()
    assert setup_fuzz(fakes).returncode == 0
    assert not (fakes / "apt-get.log").exists()
