"""What was set while an engine ran: what its successor goes on with, whatever it is started with itself."""

from typing import Literal

import msgspec

from ringblk.engine.base.number_text import size_text
from ringblk.engine.options.drive_config import CacheMode
from ringblk.engine.options.rate_limiter_config import RATE_OF_BUCKET
from ringblk.shm.rates.bucket_settings import BucketSettings


class RunningSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What differs from what the engine was started with. None and empty: nothing does.

    A setting that is put back to what the engine was started with is not among them any more.
    """

    limits: dict[str, BucketSettings | None] = {}
    """By bucket; None: its limit was taken away. Those of a rate group are the group's to keep."""
    cache: CacheMode | None = None
    workers: int | None = None
    is_paused: bool = False
    size_bytes: int | None = None
    is_root_device: bool | None = None
    partuuid: str | None = None
    merge_bps: int = 0
    """Bytes a second that merges of layers may copy; 0: as many as they can."""

    def words(self) -> list[str]:
        """Each of them, for a log line."""
        found = limit_words(self.limits)
        if self.cache is not None:
            found.append(f"cache {self.cache}")
        if self.workers is not None:
            found.append(f"{self.workers} workers")
        if self.size_bytes is not None:
            found.append(f"size {self.size_bytes}")
        if self.is_root_device is not None:
            found.append("is the root device" if self.is_root_device else "is not the root device")
        if self.partuuid is not None:
            found.append(f"partuuid {self.partuuid!r}")
        if self.merge_bps:
            found.append(f"layers merged at {size_text(self.merge_bps)}/s")
        if self.is_paused:
            found.append("paused")
        return found


class DriveIdentity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What makes two drives the same one: the image's file or device, else the backend with its arguments."""

    kind: Literal["image", "device", "backend"]
    device: int = 0
    inode: int = 0
    generation: int = 0
    """When the file was made, or the disk's sequence number; 0: unknown. Other numbers are used again."""
    backend: str = ""
    """A digest of its name and arguments."""
    has_contents_elsewhere: bool = True
    """False: what is stored is gone with the engine's processes."""

    def is_same(self, other: "DriveIdentity") -> bool:
        """Whether a guest that had this drive still has it with the other."""
        return self.has_contents_elsewhere and self == other


class DriveRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One engine's drive as its successor has to know it. Fields that are not known are passed over."""

    pid: int
    written_ns: int
    drive: DriveIdentity
    name: str = ""
    """What its engine calls it."""
    socket: str | None = None
    """A digest of its path."""
    is_read_only: bool = False
    capacity_bytes: int = 0
    rate_group: str | None = None
    driver_writeback: bool | None = None
    """What the driver has chosen for its write cache (virtio 1.2, 5.2.6.2); None: none has been there."""
    settings: RunningSettings = RunningSettings()

    @property
    def is_worth_keeping(self) -> bool:
        """Whether a successor would do anything differently for it."""
        return self.driver_writeback is not None or self.settings != RunningSettings()


def limit_words(limits: dict[str, BucketSettings | None]) -> list[str]:
    """Limits in the options' words."""
    return [f"{RATE_OF_BUCKET[name]} {_bucket_words(name, bucket)}" for name, bucket in limits.items()]


def _bucket_words(name: str, bucket: BucketSettings | None) -> str:
    if bucket is None:
        return "without a limit"
    rate = bucket.tokens * 1000 / bucket.period_ms
    return f"{size_text(rate)}/s" if name.startswith("bytes") else f"{rate:g}/s"
