"""Rate limits as users write them."""

from typing import Any

import msgspec
import pytest

from ringblk.engine.options.rate_limiter_config import (
    RateLimiterConfig,
    RateLimiterError,
    RateLimitOptions,
    TokenBucketConfig,
    buckets_from_config,
    decode_rate_limiter,
    settings_from_config,
    settings_from_options,
)
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit_settings import RateLimitSettings


def test_firecrackers_form() -> None:
    config = decode_rate_limiter(
        msgspec.json.decode(
            b'{"bandwidth": {"size": 1000000, "one_time_burst": 5000, "refill_time": 250},'
            b' "ops": {"size": 10, "refill_time": 3000}}'
        )
    )
    assert settings_from_config(config) == RateLimitSettings(
        bytes_total=BucketSettings(tokens=1_000_000, period_ms=250, burst=1_000_000, one_time_burst=5000),
        ops_total=BucketSettings(tokens=10, period_ms=3000, burst=10),
    )


def test_what_is_left_out_is_left_as_it_is_and_zero_is_no_limit() -> None:
    assert buckets_from_config(RateLimiterConfig()) == {}
    assert buckets_from_config(RateLimiterConfig(ops=TokenBucketConfig(0, 100))) == {"ops_total": None}
    assert buckets_from_config(RateLimiterConfig(bandwidth=TokenBucketConfig(5, 0))) == {"bytes_total": None}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"bandwidth": {"size": -1, "refill_time": 1}}, "rate_limiter.bandwidth.size"),
        ({"bandwidth": {"size": "x", "refill_time": 1}}, "rate_limiter.bandwidth.size"),
        ({"ops": {"size": 1, "refill_time": 1.5}}, "rate_limiter.ops.refill_time"),
        ({"ops": {"size": 2**63, "refill_time": 1}}, "rate_limiter.ops.size"),
        ({"ops": {"size": 1}}, "rate_limiter.ops"),
        ({"ops": {"size": 1, "refill_time": 1, "speed": 1}}, "rate_limiter.ops"),
        ({"iops": {}}, "rate_limiter"),
    ],
)
def test_wrong_json_names_the_field(value: dict[str, Any], field: str) -> None:
    with pytest.raises(RateLimiterError) as caught:
        decode_rate_limiter(value)
    assert caught.value.field == field


def test_what_makes_no_bucket_names_the_field() -> None:
    slow = RateLimiterConfig(ops=TokenBucketConfig(size=1, refill_time=10_000_000))
    with pytest.raises(RateLimiterError, match=r"rate_limiter\.ops\.size: slower than"):
        settings_from_config(slow)
    much = RateLimiterConfig(bandwidth=TokenBucketConfig(1, 1000, 1 << 50))
    with pytest.raises(RateLimiterError, match=r"rate_limiter\.bandwidth\.one_time_burst: .* at most"):
        settings_from_config(much)


def test_plain_options() -> None:
    options = RateLimitOptions(
        bps=10**6,
        bps_read=10**5,
        bps_write=3,
        burst=4096,
        one_time_burst=77,
        iops=500,
        iops_read=20,
        iops_write=1,
    )
    assert settings_from_options(options) == RateLimitSettings(
        bytes_total=BucketSettings(tokens=10**6, burst=4096, one_time_burst=77),
        bytes_read=BucketSettings(tokens=10**5, burst=4096),
        bytes_write=BucketSettings(tokens=3, burst=4096),
        ops_total=BucketSettings(tokens=500),
        ops_read=BucketSettings(tokens=20),
        ops_write=BucketSettings(tokens=1),
    )
    assert settings_from_options(RateLimitOptions()) == RateLimitSettings()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (RateLimitOptions(burst=1), "burst"),
        (RateLimitOptions(bps_read=1, one_time_burst=1), "one_time_burst"),
        (RateLimitOptions(bps=1, iops_burst=1), "iops_burst"),
        (RateLimitOptions(iops_read=1, iops_one_time_burst=1), "iops_one_time_burst"),
        (RateLimitOptions(bps_read=1, burst=1 << 50), "burst"),
        (RateLimitOptions(iops=1, iops_one_time_burst=1 << 50), "iops_one_time_burst"),
    ],
)
def test_wrong_options_name_the_option(options: RateLimitOptions, field: str) -> None:
    with pytest.raises(RateLimiterError) as caught:
        settings_from_options(options)
    assert caught.value.field == field
