"""What pyproject.toml cannot say: every .pyx is a compiled module, man pages are made of the parsers."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup  # type: ignore[import-untyped]

# isort: split
# setuptools brings it.
from distutils.command.install_data import install_data

FLOORS = ("shm", "workers", "engine")
"""From the ground up: a floor imports from those before it."""
PACKAGE = Path("src", "ringblk")
OF_LINUX_ALONE = ("workers/nbd/", "workers/backends/nbd")
"""What is not built elsewhere: NBD."""
COMPILE_FLAGS = ["-O3", "-Wall", "-g0"]  # -g0: debug information is six sevenths of a module

HEADERS = {"nbd": "libnbd.h", "rbd": "rbd/librbd.h", "rados": "rados/librados.h"}
"""Of the libraries that a module may name in its first line: it is built where their headers are."""
LIBRARIES = re.compile(r"# libraries: (.+)\n")


@functools.cache
def has_header(name: str) -> bool:
    """Whether the compiler finds it."""
    compiler = os.environ.get("CC", "cc").split()
    command = [*compiler, "-E", "-x", "c", "-o", os.devnull, "-"]
    return subprocess.run(command, input=f"#include <{name}>", text=True, capture_output=True).returncode == 0


def libraries_of(source: Path) -> list[str]:
    """What a module is linked with besides C's own library."""
    with source.open() as file:
        libraries = LIBRARIES.match(file.readline())
    return [] if libraries is None else libraries[1].split()


def is_of_linux_alone(path: Path) -> bool:
    """Whether a source, a path below the project's folder, is not built elsewhere."""
    return path.relative_to(PACKAGE).as_posix().startswith(OF_LINUX_ALONE)


def compiled_modules(root: Path) -> dict[str, Path]:
    """The compiled modules by dotted names, with sources as paths below `root`, the project's folder."""
    modules = {}
    for floor in FLOORS:  # links in the tree, which a glob of the whole would not follow; folders in an sdist
        for source in sorted((root / PACKAGE / floor).rglob("*.pyx")):
            path = source.relative_to(root)
            if sys.platform != "linux" and is_of_linux_alone(path):
                continue
            if all(has_header(HEADERS[library]) for library in libraries_of(source)):
                modules[".".join(path.relative_to("src").with_suffix("").parts)] = path
    return modules


def extensions(root: Path) -> list[Extension]:
    """What is to be built. In a wheel it is stripped; in place it keeps its names, for profilers."""
    link_flags = ["-Wl,-s"] if "bdist_wheel" in sys.argv else []
    return [
        Extension(
            name,
            [str(path)],
            libraries=libraries_of(root / path),
            extra_compile_args=COMPILE_FLAGS,
            extra_link_args=link_flags,
        )
        for name, path in compiled_modules(root).items()
    ]


class InstallData(install_data):
    """What is installed below the prefix; man pages and completion are made by the package that was built."""

    def run(self) -> None:
        """Make them, and install all."""
        build: Any = self.get_finalized_command("build")
        made = Path(build.build_base, "share").resolve()
        path = [os.path.abspath(build.build_lib), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "ringblk.engine.program.share_files", str(made)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        subprocess.run(command, check=True, env=environment)
        for file in sorted(path for path in made.rglob("*") if path.is_file()):
            self.data_files.append((f"share/{file.parent.relative_to(made)}", [str(file)]))
        super().run()


if __name__ == "__main__":
    setup(ext_modules=extensions(Path()), cmdclass={"install_data": InstallData})
