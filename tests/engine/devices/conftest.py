"""Engines with a file system of a user's own, for the tests of this room."""

from collections.abc import Callable, Iterator

import pytest

from tests.rigs.python_share import Served


@pytest.fixture
def start() -> Iterator[Callable[..., Served]]:
    """Starts one with these options; all end with the test."""
    started: list[Served] = []

    def start_one(*options: str) -> Served:
        started.append(Served(*options))
        return started[-1]

    yield start_one
    for served in started:
        served.close()
