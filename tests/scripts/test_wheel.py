"""What users get: the source distribution is complete; scripts/wheel makes and checks a wheel."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.rigs.separate_build import ROOT, package_files

UNITS = ("ringblk.service", "ringblk@.service", "ringblk@.socket")
OTHERS = (
    *("LICENSE", "README.md", "pyproject.toml", "setup.py", "share/qemu/vhost-user/50-ringblk.json"),
    *(f"share/systemd/{name}" for name in UNITS),
)


def test_the_source_distribution_is_complete(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("shm", "workers", "engine", "src", "share", "docs"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    for path in (*ROOT.glob("*.*"), ROOT / "LICENSE"):
        if path.is_file():
            shutil.copy(path, tree)
    code = "from setuptools.build_meta import build_sdist; build_sdist('made')"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
    (made,) = (tree / "made").iterdir()
    with tarfile.open(made) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    files = package_files(".py", ".pyx", ".pxd", ".pyi")
    wanted = {f"src/ringblk/{path.relative_to(ROOT)}" for path in files} | {"src/ringblk/py.typed", *OTHERS}
    assert wanted - names == set()
    assert not any(name.startswith("tests/") or name.endswith((".so", ".c", ".pyc")) for name in names)


QUICK_COMPILER = """#!/usr/bin/env bash
exec gcc "${@/#-O3/-O0}"
"""
"""What a wheel has and whether it works does not hang on optimisation, which is most of the time."""


@pytest.mark.timeout(1800)  # compiles everything
@pytest.mark.skipif(os.environ.get("CI") != "true", reason="two minutes: run ./scripts/wheel")
def test_the_wheel(tmp_path: Path) -> None:
    compiler = tmp_path / "quick-gcc"
    compiler.write_text(QUICK_COMPILER)
    compiler.chmod(0o755)
    made = subprocess.run(
        [ROOT / "scripts" / "wheel", tmp_path],
        env={**os.environ, "CC": str(compiler)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout
    assert len(list(tmp_path.glob("ringblk-*-manylinux*.whl"))) == 1
