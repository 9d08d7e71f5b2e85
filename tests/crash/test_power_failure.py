"""An overlay after a power failure: each block is old or new, and what was flushed is there.

The fault model is in engine/crashes/history.py. `scripts/power_failure` makes as many states as one likes.
"""

import pytest

from tests.crash.power_failures import MIB, power_failures
from tests.rigs.power_load import Load


@pytest.mark.parametrize("seed", range(3))
def test_one_process(seed: int) -> None:
    """The power fails under an overlay: no block is anything but old or new."""
    power_failures(Load("", "", seed + 1, 400), 70 * MIB + 512, 70 * MIB + 512, states=40, lives=2)


def test_processes_that_flush_at_once() -> None:
    power_failures(
        Load("", "", 11, 200, process_count=3, flushes=0.4), 70 * MIB, 3 * MIB + 512, states=60, lives=2
    )


def test_a_journal_that_comes_round() -> None:
    load = Load("", "", 21, 5000, flushes=0.5, watched_stride=33)
    power_failures(load, 400 * MIB, 400 * MIB, states=25, lives=1, from_part=0.9)


def test_more_changes_than_the_journal_holds() -> None:
    load = Load("", "", 31, 150, wide_discards=0.2)
    power_failures(load, 8192 * MIB, 8192 * MIB, states=30, lives=2)
