"""Compiled modules of the benches: no part of the package, so they are built where they are wanted."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_FLOORS = ("shm", "workers")


def compiled(name: str) -> Any:
    """The module, built anew where its source or a declaration of the package is newer."""
    source = _FOLDER / f"{name}.pyx"
    built = list(_FOLDER.glob(f"{name}.*.so"))
    root = _FOLDER.parent.parent
    declarations = [path for floor in _FLOORS for path in (root / floor).rglob("*.pxd")]
    newest = max(path.stat().st_mtime for path in [source, *declarations])
    if not built or built[0].stat().st_mtime < newest:
        subprocess.run(
            [sys.executable, str(_FOLDER / "build_module.py"), name], check=True, stdout=subprocess.DEVNULL
        )
    return importlib.import_module(f"tests.bench.{name}")
