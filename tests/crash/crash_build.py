"""The package built with its crash points compiled in, beside the build that users have.

Only modules with crash points of their own are compiled again; the rest is taken from the build in place.
"""

import os
import re
from pathlib import Path

from tests.rigs.separate_build import ROOT, SeparateBuild, module_name, package_files

__all__ = ["ROOT", "crash_build", "crash_environment", "modules_with_points"]


def crash_build() -> Path:
    """The folder to put into PYTHONPATH; built where that has not been done for these very sources."""
    flags = ("-O0", "-g0", "-Wall", "-DRINGBLK_CRASH_POINTS")
    return SeparateBuild("crash-build", flags, modules_with_points()).make()


def crash_environment(plan: Path | None) -> dict[str, str]:
    """The environment of a process that is to import that build, and to die by this plan."""
    environment = {**os.environ, "PYTHONPATH": str(crash_build())}
    environment.pop("RINGBLK_CRASH_FILE", None)
    if plan is not None:
        environment["RINGBLK_CRASH_FILE"] = str(plan)
    return environment


def modules_with_points() -> list[str]:
    """The compiled modules that hold crash points, their own or those of a .pxd they cimport."""
    headers = [
        re.escape(module_name(path)) for path in package_files(".pxd") if "crash_point(" in path.read_text()
    ]
    pattern = re.compile(rf"from ({'|'.join(headers)}) cimport")
    return [module_name(path) for path in package_files(".pyx") if pattern.search(path.read_text())]
