"""Histograms against sorted lists: the error bound, adding, subtracting, bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringblk.shm.layout.histogram import BUCKETS, RELATIVE_ERROR, Histogram

LONGEST_NS = (1 << 39) - 1
TIMES = st.lists(st.one_of(st.integers(0, 300), st.integers(0, LONGEST_NS)), min_size=1, max_size=200)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def test_the_error_bound_is_what_is_asked_for() -> None:
    assert RELATIVE_ERROR <= 0.02
    assert BUCKETS * 8 < 20_000  # bytes in the state segment


@given(TIMES, st.floats(0.001, 100))
def test_a_percentile_is_near_the_exact_one(values: list[int], percent: float) -> None:
    exact = sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]
    assert abs(histogram_of(values).percentile(percent) - exact) <= exact * RELATIVE_ERROR


@given(TIMES)
def test_count_and_sum_are_exact(values: list[int]) -> None:
    histogram = histogram_of(values)
    assert histogram.count == len(values)
    assert histogram.sum_ns == sum(values)


@given(TIMES, TIMES)
def test_what_came_later_is_the_difference(earlier: list[int], later: list[int]) -> None:
    total = histogram_of(earlier)
    total.merge(histogram_of(later))
    assert total.counts_below([1 << n for n in range(40)]) == histogram_of(earlier + later).counts_below(
        [1 << n for n in range(40)]
    )
    rest = total.since(histogram_of(earlier))
    assert rest.sum_ns == sum(later)
    assert [rest.percentile(p) for p in (1, 50, 99, 100)] == [
        histogram_of(later).percentile(p) for p in (1, 50, 99, 100)
    ]


@given(TIMES)
def test_counts_below_powers_of_two_are_exact(values: list[int]) -> None:
    bounds_ns = [1 << exponent for exponent in range(39)]
    expected = [sum(value < bound_ns for value in values) for bound_ns in bounds_ns]
    assert histogram_of(values).counts_below(bounds_ns) == expected


@pytest.mark.parametrize("value", [LONGEST_NS, LONGEST_NS + 1, (1 << 64) - 1])
def test_longer_times_land_in_the_last_bucket(value: int) -> None:
    histogram = histogram_of([value])
    assert histogram.counts_below([LONGEST_NS + 1]) == [1]
    assert histogram.percentile(50) == pytest.approx(LONGEST_NS, rel=RELATIVE_ERROR)


def test_an_empty_histogram_says_nothing() -> None:
    assert Histogram().count == 0
    assert Histogram().percentile(99.9) == 0
