"""A fixture for pytest: `pytest_plugins = ["ringblk.engine.crashes.fixture"]` in a conftest.py brings it."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.engine.crashes.recorded_folder import CannotRecord, RecordedFolder


@pytest.fixture
def recorded_folder(tmp_path: Path) -> Callable[[Path], RecordedFolder]:
    """Record a folder: `with recorded_folder(folder) as recorded: ...`.

    `Recording.read(recorded.record)` has what was recorded then. A test is skipped where folders cannot be
    recorded.
    """
    numbers = itertools.count()

    def record(folder: Path) -> RecordedFolder:
        return _Skipping(folder, tmp_path / f"record-{next(numbers)}")

    return record


class _Skipping(RecordedFolder):
    """One whose test is skipped where it cannot be had."""

    def __enter__(self) -> RecordedFolder:
        try:
            return super().__enter__()
        except CannotRecord as error:
            pytest.skip(str(error))
