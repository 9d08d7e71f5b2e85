"""The settings of a drive's six buckets."""

import msgspec

from ringblk.shm.bucket_settings import BucketSettings


class RateLimitSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit for bytes and for operations, each for reads, for writes and for all; None is no limit."""

    bytes_total: BucketSettings | None = None
    bytes_read: BucketSettings | None = None
    bytes_write: BucketSettings | None = None
    ops_total: BucketSettings | None = None
    ops_read: BucketSettings | None = None
    ops_write: BucketSettings | None = None
