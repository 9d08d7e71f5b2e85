"""What a body names, as the change that is to be made to a drive."""

from msgspec import UNSET

from ringblk.engine.control.messages import DriveBody
from ringblk.engine.drives.changes import ChangeRefused, DriveChange
from ringblk.engine.options.rate_limiter_config import (
    RateLimiterError,
    buckets_from_config,
    buckets_from_patch,
)
from ringblk.shm.rates.bucket_settings import BucketSettings


def change_of(body: DriveBody) -> DriveChange:
    """All that the body names of a drive's settings. Raises `ChangeRefused`."""
    return DriveChange(
        size=body.size_bytes,
        cache=body.cache,
        buckets=_buckets_of(body),
        is_root_device=body.is_root_device,
        partuuid=body.partuuid,
    )


def _buckets_of(body: DriveBody) -> dict[str, BucketSettings | None]:
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
