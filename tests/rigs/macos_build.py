"""The compiled modules, compiled for macOS by `zig cc`, which has its headers; nothing of that runs here.

Python's own headers are those of this host: they are the same for 64 bits, but for what a system has besides.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension  # type: ignore[import-untyped]

from setup import HEADERS
from tests.rigs.portable_build import modules_of_linux
from tests.rigs.separate_build import ROOT, compiled_modules

TARGETS = ("aarch64-macos", "x86_64-macos")
FLAGS = ("-c", "-O0", "-g0", "-fno-sanitize=all", "-Wall", "-Werror=implicit", "-Wno-unused")
_HOME = ROOT / ".cache" / "macos-build"


def compile_for_macos(modules: Sequence[str], targets: Sequence[str] = TARGETS, jobs: int = 2) -> list[str]:
    """Compile these modules for each target; what the compiler says of those that it does not take."""
    sources = _c_files(modules, jobs)
    folders = [_python_headers(), _library_headers()]
    pairs = [(source, target) for target in targets for source in sources]
    with ThreadPoolExecutor(jobs) as pool:
        return [text for text in pool.map(lambda pair: _compile(pair[0], pair[1], folders), pairs) if text]


def _sources(modules: Collection[str]) -> dict[str, Path]:
    return {name: ROOT / "src" / f"{name.replace('.', '/')}.pyx" for name in modules}


def _c_files(modules: Sequence[str], jobs: int) -> list[Path]:
    """What Cython makes of them, in as many processes; below .cache, and only where a source is newer."""
    _HOME.mkdir(parents=True, exist_ok=True)
    former = Path.cwd()
    os.chdir(ROOT)
    try:
        extensions = [
            Extension(name, [str(path.relative_to(ROOT))]) for name, path in _sources(modules).items()
        ]
        made = cythonize(  # type: ignore[no-untyped-call]
            extensions, build_dir=str(_HOME), include_path=["src"], nthreads=jobs, quiet=True
        )
    finally:
        os.chdir(former)
    return [ROOT / extension.sources[0] for extension in made]


def _python_headers() -> Path:
    """Python's own. Debian's `pyconfig.h` only leads to that of a system that it knows, as macOS is not."""
    folder = Path(sysconfig.get_path("include"))
    system = sysconfig.get_config_var("MULTIARCH") or "none"
    of_this_system = folder.parent / system / folder.name / "pyconfig.h"
    if not of_this_system.exists():
        return folder
    copied = _HOME / "python"
    shutil.copytree(folder, copied, dirs_exist_ok=True)
    shutil.copy(of_this_system, copied)
    return copied


def _library_headers() -> Path:
    """A folder with the headers of libraries that modules name, and none of this C library."""
    folder = _HOME / "include"
    folder.mkdir(parents=True, exist_ok=True)
    for header in HEADERS.values():
        name = Path(header).parts[0]
        place, found = folder / name, Path("/usr/include", name)
        if found.exists() and not place.is_symlink():
            place.symlink_to(found)
    return folder


def _compile(source: Path, target: str, folders: Sequence[Path]) -> str:
    made = _HOME / target / source.relative_to(_HOME).with_suffix(".o")
    made.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ziglang", "cc", f"--target={target}", *FLAGS]
    command += [f"-I{folder}" for folder in folders]
    done = subprocess.run(
        [*command, str(source), "-o", str(made)], capture_output=True, text=True, check=False
    )
    return f"{source.stem} for {target}:\n{done.stderr}" if done.returncode else ""


def main(arguments: Sequence[str]) -> int:
    """Compile the modules named, or all; the exit status."""
    modules = arguments or [name for name in compiled_modules() if name not in modules_of_linux()]
    failures = compile_for_macos(modules)
    print(*failures, f"{len(modules)} modules for {', '.join(TARGETS)}: {len(failures)} failures", sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
