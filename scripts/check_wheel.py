"""`scripts/wheel`: is the wheel what it should be? Run by the Python that it is installed for."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from importlib.metadata import metadata
from pathlib import Path, PurePosixPath

DESCRIPTOR = "share/qemu/vhost-user/50-ringblk.json"
PROGRAMS = ("ringblk", "vhost-user-ringblk", "vhost-user-ringblk-fs")
UNITS = {f"lib/systemd/system/ringblk{unit}" for unit in (".service", "@.service", "@.socket")}
DRIVE = """
from ringblk import Frontend, engine_command

with Frontend(engine_command("--blk-file=disk.img")) as disk:
    disk.write(512, b"x" * 4096)
    disk.flush()
    assert disk.read(512, 4096) == b"x" * 4096
"""


def main(wheel: Path, source: Path) -> None:
    """Check; an AssertionError says what is wrong."""
    with tarfile.open(source) as archive:
        sources = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    check_files(sources, files)
    check_installed()
    tag = wheel.stem.rpartition("-")[2]
    assert "manylinux" in tag, f"no manylinux wheel: {wheel.name}"
    size_kib = wheel.stat().st_size >> 10
    print(
        f"{wheel.name}: {sum(name.endswith('.so') for name in files)} compiled modules, {size_kib} KiB, {tag}"
    )


def check_files(sources: set[str], files: dict[str, bytes]) -> None:
    """Everything that the source distribution has of the package is in the wheel, .pyx files as modules."""
    package = {
        name.removeprefix("src/") for name in sources if name.startswith("src/ringblk/") and "." in name
    }
    compiled = {name.removesuffix(".pyx") for name in package if name.endswith(".pyx")}
    modules = {name.partition(".")[0] for name in files if name.endswith(".so")}
    assert compiled, "no compiled modules"
    assert modules == compiled, f"compiled modules: {sorted(modules ^ compiled)}"
    missing = {name for name in package if not name.endswith(".pyx")} - files.keys()
    assert not missing, f"not in the wheel: {sorted(missing)}"
    extra = [name for name in files if name.endswith((".c", ".pyx")) or name.startswith("tests")]
    assert not extra, f"not for a wheel: {extra}"
    data = {name.partition(".data/data/")[2] for name in files if not name.endswith("/")} - {""}
    assert data == shared_files(), f"below the prefix: {sorted(data ^ shared_files())}"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files), "no licence"
    for name, content in files.items():
        if name.endswith(".so"):
            assert b".symtab" not in content, f"{name} is not stripped"
            assert b".debug_info" not in content, f"{name} has debug information"


def shared_files() -> set[str]:
    """What stands below the prefix that it is installed to: a page for each command, too."""
    from ringblk.engine.program.share_files import share_files  # the installed one

    return {DESCRIPTOR, *UNITS, *(f"share/{name}" for name in share_files())}


def check_installed() -> None:
    """The programs run, a drive takes and gives back, what is shared is where it belongs."""
    assert metadata("ringblk")["License-Expression"] == "Apache-2.0"
    prefix = Path(sysconfig.get_path("data"))
    assert [name for name in shared_files() if not (prefix / name).exists()] == [], "not all is installed"
    for program in PROGRAMS:
        command = [str(Path(sysconfig.get_path("scripts"), program)), "--help"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:  # away from the project's tree
        with Path(folder, "disk.img").open("wb") as image:
            image.truncate(1 << 20)
        subprocess.run([sys.executable, "-c", DRIVE], cwd=folder, check=True, timeout=60)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
