"""The settings of a drive's six buckets."""

import msgspec

from ringblk.shm.rates.bucket_settings import BucketSettings


class RateLimitSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit for bytes and for operations, each for reads, for writes and for all; None is no limit."""

    bytes_total: BucketSettings | None = None
    bytes_read: BucketSettings | None = None
    bytes_write: BucketSettings | None = None
    ops_total: BucketSettings | None = None
    ops_read: BucketSettings | None = None
    ops_write: BucketSettings | None = None


def changed_buckets(before: RateLimitSettings, after: RateLimitSettings) -> dict[str, BucketSettings | None]:
    """The buckets of `after` that are not the same as before. Raises BucketSettingsError for what is none."""
    names = RateLimitSettings.__struct_fields__
    pairs = ((name, getattr(before, name), getattr(after, name)) for name in names)
    return {name: new for name, old, new in pairs if _terms(old) != _terms(new)}


def _terms(bucket: BucketSettings | None) -> object:
    return None if bucket is None or bucket.tokens == 0 else bucket.terms()
