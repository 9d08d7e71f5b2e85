"""The package built with crash points and invariants compiled in, beside the build that users have.

Only modules with points or invariants of their own are compiled again; the rest is the build in place.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from ringblk.shm.platform.form import LINUX
from tests.rigs.portable_build import PORTABLE, modules_of_linux, modules_with_forms
from tests.rigs.separate_build import ROOT, SeparateBuild, module_name, package_files

_USE = re.compile(r"\b(crash_point|invariant)\(")
BREAKER = Path(__file__).parent / "invariant_breaker.pyx"
"""A module of that build that breaks invariants on purpose."""
TESTS = ("tests/shm", "tests/workers", "tests/engine", "tests/racing")

__all__ = ["BREAKER", "ROOT", "crash_build", "crash_environment", "modules_with_points"]


def crash_build() -> Path:
    """The folder to put into PYTHONPATH; built where that has not been done for these very sources."""
    flags = ["-O0", "-g0", "-Wall", "-DRINGBLK_CRASH_POINTS", "-DRINGBLK_INVARIANTS"]
    if LINUX:
        return SeparateBuild("crash-build", flags, modules_with_points(), extra=[BREAKER]).make()
    absent = modules_of_linux()
    modules = sorted({*modules_with_points(), *modules_with_forms()}.difference(absent))
    flags.append(PORTABLE)
    return SeparateBuild("portable-crash-build", flags, modules, extra=[BREAKER], absent=absent).make()


def crash_environment(plan: Path | None) -> dict[str, str]:
    """The environment of a process that is to import that build, and to die by this plan."""
    environment = {**os.environ, "PYTHONPATH": str(crash_build())}
    environment.pop("RINGBLK_CRASH_FILE", None)
    if plan is not None:
        environment["RINGBLK_CRASH_FILE"] = str(plan)
    return environment


def modules_with_points() -> list[str]:
    """The compiled modules with crash points or invariants, their own or those of a .pxd they cimport."""
    headers = [
        re.escape(module_name(path)) for path in package_files(".pxd") if _USE.search(path.read_text())
    ]
    pattern = re.compile(rf"from ({'|'.join(headers)}) cimport")
    return [module_name(path) for path in package_files(".pyx") if pattern.search(path.read_text())]


def run_tests(arguments: list[str]) -> int:
    """pytest on that build; without arguments, the tests of what has invariants."""
    command = [sys.executable, "-m", "pytest", *(arguments or TESTS)]
    return subprocess.run(command, cwd=ROOT, env=crash_environment(None), check=False).returncode


if __name__ == "__main__":
    sys.exit(run_tests(sys.argv[1:]))
