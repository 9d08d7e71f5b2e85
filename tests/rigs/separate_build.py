"""A build of the package beside the one in place, compiled in another way: under .cache, for tests alone."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from setup import FLOORS, libraries_of
from setup import compiled_modules as modules_below

ROOT = Path(__file__).resolve().parents[2]
_COMPILE = """
import json, os, sys
from Cython.Build import cythonize
from setuptools import Extension, setup

options = json.loads(sys.argv[1])
os.environ["CC"] = options["compiler"]
extensions = [
    Extension(
        name, [f"src/{name.replace('.', '/')}.pyx"], libraries=libraries, extra_compile_args=options["flags"]
    )
    for name, libraries in options["modules"].items()
]
setup(
    name="ringblk-separate-build",
    packages=[],
    package_dir={"": "src"},
    ext_modules=cythonize(extensions, build_dir="build", include_path=options["include"]),
    script_args=["-q", "build_ext", "--inplace"],
)
"""


class SeparateBuild(msgspec.Struct, frozen=True):
    """What to compile and how. Modules of the package not compiled here are taken from the build in place.

    `extra` are .pyx and .pxd files from outside the package, which become modules at the top. Where nothing
    but those is compiled, the folder has no package. `absent` are compiled modules that it has not.
    """

    name: str
    flags: Sequence[str]
    modules: Sequence[str]
    compiler: str = "gcc"
    extra: Sequence[Path] = ()
    absent: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """The folder to put into PYTHONPATH."""
        return self._home / "src"

    @property
    def _home(self) -> Path:
        return ROOT / ".cache" / self.name

    def make(self) -> Path:
        """Build, where that has not been done for these very sources in this very way; the folder."""
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stamp = self._home / "stamp"
            sources = self._sources()
            way = f"{self.compiler} {self.flags} {self.modules} {self.absent} {_COMPILE!r}"
            state = "\n".join([way, *(f"{path} {_version(path)}" for path in sources)])
            built = stamp.read_text() if stamp.exists() else ""
            if built != state:
                stamp.unlink(missing_ok=True)
                if not built.startswith(way + "\n"):  # else only what has changed, and what cimports it
                    for folder in (self.folder, self._home / "build"):
                        shutil.rmtree(folder, ignore_errors=True)
                self._copy(sources)
                self._compile()
                stamp.write_text(state)
        return self.folder

    def _sources(self) -> list[Path]:
        suffixes = ("",) if self.modules else (".pxd",)
        wanted = [path for path in package_files(*suffixes) if not self._is_replaced(path)]
        return wanted + sorted(self.extra)

    def _is_replaced(self, path: Path) -> bool:
        """A module of the build in place that is compiled here, or is not to be there."""
        return path.suffix == ".so" and module_name(path) in {*self.modules, *self.absent}

    def _copy(self, sources: list[Path]) -> None:
        for path in sources if self.modules else self.extra:
            place = path.name if path in self.extra else Path("ringblk", path.relative_to(ROOT))
            target = self.folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_anew(path, target)
        if self.modules:
            for path in (ROOT / "src" / "ringblk").glob("*.py"):
                shutil.copy2(path, self.folder / "ringblk" / path.name)

    def _compile(self) -> None:
        modules = [*self.modules, *(path.stem for path in self.extra if path.suffix == ".pyx")]
        parts = [self._compile_some(part) for part in (modules[::2], modules[1::2]) if part]
        for process in parts:
            output, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"the build {self.name} failed:\n{output}")

    def _source(self, module: str) -> Path:
        return self.folder / Path(*module.split(".")).with_suffix(".pyx")

    def _compile_some(self, modules: Sequence[str]) -> "subprocess.Popen[str]":
        options = msgspec.json.encode(
            {
                "compiler": self.compiler,
                "flags": self.flags,
                "modules": {name: libraries_of(self._source(name)) for name in modules},
                "include": ["src", str(ROOT / "src")],
            }
        )
        return subprocess.Popen(
            [sys.executable, "-c", _COMPILE, options.decode()],
            cwd=self._home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
        )


def package_files(*suffixes: str) -> list[Path]:
    """The files of the package below its floors whose names end so; built modules are among them."""
    return sorted(
        path
        for floor in FLOORS
        for path in (ROOT / floor).rglob("*.*")
        if path.name.endswith(suffixes) and path.suffix != ".pyc"
    )


def compiled_modules() -> list[str]:
    """All compiled modules of the package."""
    return sorted(modules_below(ROOT))


def module_name(path: Path) -> str:
    """The module that a source or built file of the package is."""
    return ".".join(("ringblk", *path.relative_to(ROOT).parent.parts, path.name.partition(".")[0]))


def _copy_anew(path: Path, target: Path) -> None:
    """Copy what differs, as another file of that name: who has the former one mapped goes on with it."""
    if not target.exists() or _version(target) != _version(path):
        made = target.with_name(f".{target.name}")
        shutil.copy2(path, made)
        made.replace(target)


def _version(path: Path) -> str:
    info = path.stat()
    return f"{info.st_mtime_ns} {info.st_size}"
