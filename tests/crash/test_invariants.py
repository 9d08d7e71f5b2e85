"""Invariants: each ends the process where it does not hold, and none is in the build that users have."""

import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.crash.crash_build import BREAKER, ROOT, crash_build, crash_environment
from tests.rigs.separate_build import package_files

TEXT = re.compile(r'\binvariant\(.*, "([^"]+)"\)')
USES = [use for path in package_files(".pyx", ".pxd") for use in TEXT.findall(path.read_text())]
GENERATED = re.compile(r"^ *invariant\(.*\);$", re.MULTILINE)
"""A check as Cython writes it into C."""


def test_each_check_is_found() -> None:
    """Each stands on one line, with its text."""
    calls = [
        line
        for path in package_files(".pyx", ".pxd")
        for line in path.read_text().splitlines()
        if "invariant(" in line and path.name != "invariant.pxd"
    ]
    assert len(calls) == len(USES) >= 19


@pytest.mark.parametrize("text", sorted(set(USES)))
def test_a_process_in_which_it_does_not_hold_says_so_and_ends(text: str) -> None:
    code = f"import invariant_breaker; invariant_breaker.BREAKERS[{text!r}]()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=crash_environment(None),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == f"ringblk: this must hold and does not: {text}\n"
    assert done.returncode == -signal.SIGABRT


def test_nothing_else_is_broken_on_purpose() -> None:
    assert set(re.findall(r'^    "([^"]+)": \w+,$', BREAKER.read_text(), re.MULTILINE)) == set(USES)


def test_none_is_in_the_build_in_place() -> None:
    modules = [path for path in package_files(".so") if "ringblk_invariant_broken" in _symbols(path)]
    assert modules == []
    texts = [text.encode() for text in set(USES)]
    assert [path for path in package_files(".so") if any(text in path.read_bytes() for text in texts)] == []


def _symbols(path: Path) -> str:
    return subprocess.run(["nm", "-a", path], capture_output=True, text=True, check=True).stdout


def test_machine_code_is_what_it_would_be_without_them(tmp_path: Path) -> None:
    """Of the module with the most: compiled as it is, and with the checks taken out of the C."""
    generated = crash_build().parent / "build" / "src" / "ringblk" / "engine" / "dispatcher" / "handover.c"
    text = generated.read_text()
    without = GENERATED.sub("", text)
    assert len(GENERATED.findall(text)) >= 9
    normal = _compile(tmp_path / "normal", text)
    assert normal == _compile(tmp_path / "without", without)
    assert normal != _compile(tmp_path / "checked", text, "-DRINGBLK_INVARIANTS")


def _compile(folder: Path, text: str, *flags: str) -> bytes:
    """The object file that becomes of this C."""
    folder.mkdir()
    (folder / "module.c").write_text(text)
    include = sysconfig.get_paths()["include"]
    subprocess.run(["gcc", "-O2", "-fPIC", "-I", include, *flags, "-c", "module.c"], cwd=folder, check=True)
    return (folder / "module.o").read_bytes()
