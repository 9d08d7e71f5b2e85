"""All modules compile for macOS on both of its processors. Nothing of it runs (docs/portability.md)."""

import importlib.util
import subprocess
import sys

import pytest

from tests.rigs.macos_build import TARGETS
from tests.rigs.portable_build import modules_of_linux
from tests.rigs.separate_build import ROOT, compiled_modules


def test_all_modules_compile_for_macos() -> None:
    """In a process of its own, which forks Cython's."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang here: scripts/macos gets it")
    command = [sys.executable, "-m", "tests.rigs.macos_build"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    count = len(set(compiled_modules()).difference(modules_of_linux()))
    assert count > 80
    assert done.stdout.endswith(f"{count} modules for {', '.join(TARGETS)}: 0 failures\n"), (
        done.stdout + done.stderr
    )
    assert done.returncode == 0
