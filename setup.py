"""What pyproject.toml cannot say: every .pyx is a compiled module, and all have the same flags."""

import sys
from pathlib import Path

from setuptools import Extension, setup  # type: ignore[import-untyped]

FLOORS = ("shm", "workers", "engine")
"""From the ground up: a floor imports from those before it."""
PACKAGE = Path("src", "ringblk")
COMPILE_FLAGS = ["-O3", "-Wall", "-g0"]  # -g0: debug information is six sevenths of a module


def compiled_modules(root: Path) -> dict[str, Path]:
    """All compiled modules by dotted names, with sources as paths below `root`, the project's folder."""
    modules = {}
    for floor in FLOORS:  # links in the tree, which a glob of the whole would not follow; folders in an sdist
        for source in sorted((root / PACKAGE / floor).rglob("*.pyx")):
            path = source.relative_to(root)
            modules[".".join(path.relative_to("src").with_suffix("").parts)] = path
    return modules


def extensions(root: Path) -> list[Extension]:
    """What is to be built. In a wheel it is stripped; in place it keeps its names, for profilers."""
    link_flags = ["-Wl,-s"] if "bdist_wheel" in sys.argv else []
    return [
        Extension(name, [str(path)], extra_compile_args=COMPILE_FLAGS, extra_link_args=link_flags)
        for name, path in compiled_modules(root).items()
    ]


if __name__ == "__main__":
    setup(ext_modules=extensions(Path()))
