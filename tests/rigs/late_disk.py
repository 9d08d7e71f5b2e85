"""The disk of tests/rigs/backends/compiled, built for tests alone: it has an asynchronous form only."""

import importlib
import sys
from pathlib import Path
from typing import Any

from tests.rigs.separate_build import SeparateBuild

SOURCES = Path(__file__).parent / "backends" / "compiled"


def late_disk_folder() -> Path:
    """The folder to put into PYTHONPATH."""
    return SeparateBuild("late-disk-build", ("-O1", "-Wall"), (), extra=sorted(SOURCES.glob("*.pyx"))).make()


def make_late_disk(size_bytes: int, **options: Any) -> Any:
    """One for this process."""
    folder = str(late_disk_folder())
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("late_disk").LateDisk(size_bytes, **options)
