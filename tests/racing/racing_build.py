"""The compiled parts of the race: the guest, and the disk that the engine loads."""

from pathlib import Path

from tests.rigs.separate_build import SeparateBuild


def racing_build() -> Path:
    """The folder to put into PYTHONPATH."""
    sources = tuple(sorted(Path(__file__).parent.glob("*.pyx")))
    return SeparateBuild("racing-build", ("-O2", "-Wall"), (), extra=sources).make()
