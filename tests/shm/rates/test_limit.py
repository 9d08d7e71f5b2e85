"""Six buckets together: what is charged to which, and all or nothing."""

import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.shm.rates.bucket_settings import BucketSettings, BucketSettingsError
from ringblk.shm.rates.limit import BUCKET_NAMES, OTHER, READ, STATE_BYTES, WRITE, RateLimit
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.rates.token_bucket import NEVER

MS = 1_000_000
SLOW = BucketSettings(tokens=1000, burst=10)  # one token a millisecond


def make_limit(**buckets: BucketSettings) -> RateLimit:
    limit = RateLimit(mmap.mmap(-1, mmap.PAGESIZE), 64)
    limit.configure(RateLimitSettings(**buckets), 0)
    return limit


@pytest.mark.parametrize(
    ("name", "charged"),
    [
        ("bytes_total", {READ: 10, WRITE: 10, OTHER: 0}),
        ("bytes_read", {READ: 10, WRITE: 0, OTHER: 0}),
        ("bytes_write", {READ: 0, WRITE: 10, OTHER: 0}),
        ("ops_total", {READ: 1, WRITE: 1, OTHER: 1}),
        ("ops_read", {READ: 1, WRITE: 0, OTHER: 0}),
        ("ops_write", {READ: 0, WRITE: 1, OTHER: 0}),
    ],
)
def test_each_bucket_is_charged_for_its_kind(name: str, charged: dict[int, int]) -> None:
    for kind, tokens in charged.items():
        limit = make_limit(**{name: SLOW})
        waits_ns = [limit.acquire(kind, 10, 0) for _ in range(11)]
        admitted = 10 // tokens if tokens else 11
        assert waits_ns == [0] * admitted + [tokens * MS] * (11 - admitted)


def test_no_limit_at_all() -> None:
    limit = make_limit()
    assert limit.limited == []
    assert limit.acquire(READ, 1 << 60, 0) == limit.acquire(WRITE, 1 << 60, 0) == 0


@settings(deadline=None, derandomize=True)
@given(st.sets(st.sampled_from(BUCKET_NAMES), min_size=1), st.sampled_from([READ, WRITE]), st.integers(1, 10))
def test_a_refused_request_draws_nothing(names: set[str], kind: int, size_bytes: int) -> None:
    limit = make_limit(**dict.fromkeys(names, SLOW))
    twin = make_limit(**dict.fromkeys(names, SLOW))
    for _ in range(30):
        wait_ns = limit.acquire(kind, size_bytes, 0)
        if wait_ns:
            break
        assert twin.acquire(kind, size_bytes, 0) == 0
    for probe_kind in (READ, WRITE, OTHER):
        for probe_bytes in (1, 5, 10):
            assert limit.acquire(probe_kind, probe_bytes, 0) == twin.acquire(probe_kind, probe_bytes, 0)


def test_the_wait_is_the_longest_of_those_that_apply_and_exact() -> None:
    limit = make_limit(bytes_total=SLOW, ops_total=BucketSettings(tokens=10, burst=1))
    assert limit.acquire(READ, 10, 0) == 0
    assert limit.acquire(READ, 5, 0) == 100 * MS
    assert limit.acquire(OTHER, 0, 0) == 100 * MS
    assert limit.acquire(READ, 5, 100 * MS - 1) == 1
    assert limit.acquire(READ, 5, 100 * MS) == 0


def test_configuring_some_leaves_the_others_as_they_are() -> None:
    limit = make_limit(bytes_total=SLOW, ops_total=SLOW)
    assert limit.acquire(READ, 10, 0) == 0
    limit.configure_some({"ops_total": None}, 0)
    assert limit.limited == ["bytes_total"]
    assert limit.acquire(READ, 10, 0) == 10 * MS


def test_it_tells_which_buckets_are_otherwise_however_full_they_are() -> None:
    limit = make_limit(bytes_total=SLOW, ops_total=SLOW)
    assert limit.acquire(READ, 10, 5 * MS) == 0
    assert limit.differing(RateLimitSettings(bytes_total=SLOW, ops_total=SLOW)) == []
    assert limit.differing(RateLimitSettings(bytes_total=SLOW)) == ["ops_total"]
    others = RateLimitSettings(
        bytes_total=BucketSettings(tokens=1000, burst=11), bytes_read=SLOW, ops_total=SLOW
    )
    assert set(limit.differing(others)) == {"bytes_total", "bytes_read"}
    limit.configure_some({"ops_total": None}, 5 * MS)
    assert limit.differing(RateLimitSettings(bytes_total=SLOW)) == []


def test_wrong_settings_name_bucket_and_field_and_change_nothing() -> None:
    limit = make_limit(bytes_total=SLOW)
    wrong = RateLimitSettings(bytes_read=SLOW, ops_write=BucketSettings(tokens=5, burst=-1))
    with pytest.raises(BucketSettingsError, match=r"ops_write\.burst") as caught:
        limit.configure(wrong, 0)
    assert caught.value.field == "ops_write.burst"
    assert limit.limited == ["bytes_total"]


def test_a_request_that_can_never_begin() -> None:
    limit = make_limit(bytes_total=BucketSettings(tokens=1, burst=1), ops_total=SLOW)
    assert limit.acquire(READ, 1 << 40, 0) == 0
    assert limit.acquire(READ, 1, 0) == NEVER


def test_lies_in_its_buffer_aligned_and_whole() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    RateLimit(memory, 64)
    for offset_bytes in (8, mmap.PAGESIZE - STATE_BYTES + 64, mmap.PAGESIZE + 64):
        with pytest.raises(ValueError, match="a rate limit"):
            RateLimit(memory, offset_bytes)
