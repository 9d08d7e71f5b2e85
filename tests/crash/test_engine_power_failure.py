"""A whole engine's overlay after a power failure, from the moment at which it is made.

The fault model is in engine/crashes/history.py. `scripts/power_failure` makes as many states as one likes.
"""

import pytest

from tests.crash.engine_power_failures import engine_power_failures
from tests.rigs.recorded_folder import Record


@pytest.mark.parametrize(("io_engine", "seed"), [("io_uring", 1), ("psync", 2), ("io_uring_inline", 3)])
def test_each_block_is_old_or_new(recorded_folder: Record, io_engine: str, seed: int) -> None:
    engine_power_failures(recorded_folder, io_engine, seed, rounds=25, states=40)
