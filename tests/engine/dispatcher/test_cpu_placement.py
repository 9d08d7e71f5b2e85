"""Which core the dispatcher chooses at depth 1, and when it leaves it again, on a virtual clock.

The trips are simulated: how long one takes depends on the core that this thread is held to, which is real.
"""

import os
import random
from collections.abc import Callable, Iterator

import pytest

from ringblk.engine.dispatcher.cpu_placement import CpuPlacement

CPUS = sorted(os.sched_getaffinity(0))

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="there is only one core")


@pytest.fixture(autouse=True)
def affinity() -> Iterator[None]:
    yield
    os.sched_setaffinity(0, CPUS)


class Load:
    """Trips on a clock that only they move; `trip_ns` says how long one takes on these cores."""

    def __init__(self, trip_ns: Callable[[set[int]], int]) -> None:
        self.placement = CpuPlacement(CPUS)
        self.trip_ns = trip_ns
        self.now_ns = 1
        self.random = random.Random(1)

    def run(self, trip_count: int) -> None:
        for _ in range(trip_count):
            trip_ns = self.trip_ns(os.sched_getaffinity(0))
            self.now_ns += self.random.randint(trip_ns * 9 // 10, trip_ns * 11 // 10)
            self.placement.note_trip(self.now_ns)


def quick_on(cpu: int) -> Callable[[set[int]], int]:
    """The driver is on this core; without being held the dispatcher is there only at times."""
    return lambda cpus: 8_000 if cpus == {cpu} else 20_000 if len(cpus) > 1 else 50_000


def test_it_stays_on_the_core_where_trips_are_shortest() -> None:
    for cpu in CPUS[:2]:
        load = Load(quick_on(cpu))
        load.run(10_000)
        assert load.placement.held_cpu == cpu
        assert os.sched_getaffinity(0) == {cpu}


def test_it_is_held_to_none_where_each_is_worse() -> None:
    load = Load(lambda cpus: 8_000 if len(cpus) > 1 else 30_000)
    held = 0
    for _ in range(20_000):
        load.run(1)
        held += load.placement.held_cpu >= 0
    assert load.placement.held_cpu == -1
    assert held < 3_000  # the trials


def test_it_leaves_when_requests_come_several_at_a_time() -> None:
    load = Load(quick_on(CPUS[0]))
    load.run(10_000)
    assert load.placement.held_cpu == CPUS[0]
    for _ in range(8):
        load.placement.note_depth(load.now_ns)
    assert load.placement.held_cpu == -1
    assert os.sched_getaffinity(0) == set(CPUS)


def test_it_follows_the_driver_to_another_core() -> None:
    load = Load(quick_on(CPUS[0]))
    load.run(10_000)
    load.trip_ns = quick_on(CPUS[1])
    load.run(10_000)
    assert load.placement.held_cpu == CPUS[1]


def test_it_tries_again_at_once_when_the_scheduler_has_moved_it_away() -> None:
    load = Load(lambda cpus: 8_000 if len(cpus) > 1 else 9_500)
    load.run(200_000)  # trials that gain nothing, ever rarer
    load.trip_ns = quick_on(CPUS[1])
    load.run(4_000)
    assert load.placement.held_cpu == CPUS[1]


def test_long_trips_are_left_alone() -> None:
    load = Load(lambda cpus: 2_000_000)
    load.run(5_000)
    assert load.placement.held_cpu == -1
