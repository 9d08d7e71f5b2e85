from collections.abc import Mapping

from typing_extensions import Buffer

from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit_settings import RateLimitSettings

BUCKET_NAMES: tuple[str, ...]
STATE_BYTES: int
READ: int
WRITE: int
OTHER: int

class RateLimit:
    def __init__(self, buffer: Buffer, offset_bytes: int = 0) -> None: ...
    def configure(self, settings: RateLimitSettings, now_ns: int) -> None: ...
    def configure_some(self, settings: Mapping[str, BucketSettings | None], now_ns: int) -> None: ...
    def acquire(self, kind: int, size_bytes: int, now_ns: int) -> int: ...
    def acquire_many(self, kind: int, size_bytes: int, most: int, now_ns: int) -> int: ...
    @property
    def limited(self) -> list[str]: ...
