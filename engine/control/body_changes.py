"""The limits that a body names, as the buckets that are to be set."""

from msgspec import UNSET

from ringblk.engine.control.messages import DriveBody
from ringblk.engine.drives.changes import ChangeRefused
from ringblk.engine.options.rate_limiter_config import (
    RateLimiterError,
    buckets_from_config,
    buckets_from_patch,
)
from ringblk.shm.rates.bucket_settings import BucketSettings


def buckets_of(body: DriveBody) -> dict[str, BucketSettings | None]:
    """The buckets by name; None takes one away. Raises `ChangeRefused`."""
    plain = body.plain_limits()
    if plain and body.rate_limiter is not UNSET:
        raise ChangeRefused(next(iter(plain)), "give limits in one form: plain ones or rate_limiter")
    try:
        if body.rate_limiter is not UNSET:
            return buckets_from_config(body.rate_limiter)
        return buckets_from_patch(plain)
    except RateLimiterError as error:
        raise ChangeRefused(error.field, str(error).removeprefix(f"{error.field}: ")) from error
