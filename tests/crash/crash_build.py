"""The package built with its crash points compiled in, beside the build that users have.

Only modules with crash points of their own are compiled again; the rest is taken from the build in place.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("shm", "workers", "engine")
_BUILD = ROOT / ".cache" / "crash-build"
_COMPILE = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup

names = sys.argv[1:]
flags = ["-O0", "-g0", "-Wall", "-DRINGBLK_CRASH_POINTS"]
extensions = [
    Extension(name, [f"src/{name.replace('.', '/')}.pyx"], extra_compile_args=flags) for name in names
]
setup(
    name="ringblk-crash-points",
    packages=[],
    package_dir={"": "src"},
    ext_modules=cythonize(extensions, build_dir="build", include_path=["src"], force=True),
    script_args=["-q", "build_ext", "--inplace", "--force"],
)
"""


def crash_build() -> Path:
    """The folder to put into PYTHONPATH; built where that has not been done for these very sources."""
    _BUILD.mkdir(parents=True, exist_ok=True)
    with (_BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = _BUILD / "stamp"
        sources = sorted(path for folder in FOLDERS for path in (ROOT / folder).iterdir() if path.is_file())
        state = "\n".join(f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}" for path in sources)
        if not stamp.exists() or stamp.read_text() != state:
            stamp.unlink(missing_ok=True)
            _copy(sources)
            _compile(modules_with_points())
            stamp.write_text(state)
    return _BUILD / "src"


def crash_environment(plan: Path | None) -> dict[str, str]:
    """The environment of a process that is to import that build, and to die by this plan."""
    environment = {**os.environ, "PYTHONPATH": str(crash_build())}
    environment.pop("RINGBLK_CRASH_FILE", None)
    if plan is not None:
        environment["RINGBLK_CRASH_FILE"] = str(plan)
    return environment


def modules_with_points() -> list[str]:
    """The compiled modules that hold crash points, their own or those of a .pxd they cimport."""
    headers = {path.stem for path in (ROOT / "shm").glob("*.pxd") if "crash_point(" in path.read_text()}
    pattern = re.compile(rf"from ringblk\.shm\.({'|'.join(sorted(headers))}) cimport")
    return [
        f"ringblk.{folder}.{path.stem}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).glob("*.pyx"))
        if pattern.search(path.read_text())
    ]


def _copy(sources: list[Path]) -> None:
    for path in sources:
        target = _BUILD / "src" / "ringblk" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    shutil.copy2(ROOT / "src" / "ringblk" / "__init__.py", _BUILD / "src" / "ringblk" / "__init__.py")


def _compile(modules: list[str]) -> None:
    half = len(modules) // 2
    parts = [
        subprocess.Popen([sys.executable, "-c", _COMPILE, *part], cwd=_BUILD, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
        for part in (modules[:half], modules[half:])
    ]  # fmt: skip
    for process in parts:
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the build with crash points failed:\n{output}")
