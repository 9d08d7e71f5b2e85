"""A short kill storm over twenty drives; `./scripts/stress --machine=drives_storm` runs longer ones."""

import pytest

from tests.stress.drives_storm import storm_over_drives


@pytest.mark.timeout(240)
def test_a_kill_storm_over_twenty_drives() -> None:
    storm_over_drives(20, 8, seed=1)
