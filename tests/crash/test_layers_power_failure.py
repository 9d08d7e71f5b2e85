"""A drive's layers after a power failure while they are sealed and merged.

The fault model is in engine/crashes/history.py. `scripts/power_failure` makes as many states as one likes.
"""

import pytest

from tests.crash.layers_power_failures import layers_power_failures
from tests.rigs.recorded_folder import Record


@pytest.mark.parametrize("seed", [1, 2])
def test_drive_and_snapshots_are_as_they_may_be(recorded_folder: Record, seed: int) -> None:
    layers_power_failures(recorded_folder, seed, rounds=18, states=40)
