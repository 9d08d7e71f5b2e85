"""The package with the portable forms of what is of one system, beside the build in place.

Only modules that are compiled differently are compiled again: those that take a form from `shm/platform`.
docs/portability.md says what the portable forms are.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from setup import compiled_modules, is_of_linux_alone
from tests.rigs.separate_build import ROOT, SeparateBuild, module_name, package_files

FORM = "RINGBLK_LINUX"
_CRASH_BUILD = "from tests.crash.crash_build import crash_build; crash_build()"
PORTABLE = "-DRINGBLK_PORTABLE"
FLAGS = ("-O1", "-g0", "-Wall", PORTABLE)
TESTS = ("tests/shm", "tests/workers", "tests/engine", "tests/crash", "tests/racing", "tests/stress")


def portable_build() -> Path:
    """The folder to put into PYTHONPATH; built where that has not been done for these very sources."""
    return SeparateBuild("portable-build", FLAGS, modules_with_forms(), absent=modules_of_linux()).make()


def modules_of_linux() -> list[str]:
    """The compiled modules that other systems are not to have."""
    return [name for name, path in compiled_modules(ROOT).items() if is_of_linux_alone(path)]


def modules_with_forms() -> list[str]:
    """The compiled modules of any system that have a form.

    That is their own or that of a .pxd that they cimport, through others too.
    """
    headers = {module_name(path): path.read_text() for path in package_files(".pxd")}
    with_form = {name for name, text in headers.items() if FORM in text}
    while more := {name for name, text in headers.items() if _takes(text, with_form)} - with_form:
        with_form |= more
    sources = {module_name(path): path.read_text() for path in package_files(".pyx")}
    found = {name for name, text in sources.items() if FORM in text or _takes(text, with_form)}
    found |= with_form & sources.keys()
    return sorted(found.difference(modules_of_linux()))


def _takes(text: str, headers: set[str]) -> bool:
    return bool(headers & set(re.findall(r"^from ([\w.]+) cimport", text, re.MULTILINE)))


def run_tests(arguments: list[str]) -> int:
    """pytest on that build; without arguments, all that does not test what it lacks."""
    environment = {**os.environ, "PYTHONPATH": str(portable_build())}
    # No test's time: how long a build takes says nothing of what it tests.
    subprocess.run([sys.executable, "-c", _CRASH_BUILD], cwd=ROOT, env=environment, check=True)
    command = [sys.executable, "-m", "pytest", *(arguments or TESTS)]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(run_tests(sys.argv[1:]))
