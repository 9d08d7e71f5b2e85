"""A drive's configuration as it is now, with what was set while it ran, and how it differs from another."""

from typing import Any

import msgspec

from ringblk.engine.drives.drive import Drive
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.options.rate_limiter_config import LIMIT_NAMES, patch_from_settings
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit_settings import RateLimitSettings, changed_buckets

_LIMIT_FIELDS = frozenset({*LIMIT_NAMES, "rate_limiter"})
_SETTABLE = frozenset({"cache", "workers", "is_root_device", "partuuid"})
"""What else can be changed while a drive runs."""


def current_config(drive: Drive) -> DriveConfig:
    """What a drive would have to be begun with, to be as it is now."""
    return msgspec.structs.replace(
        drive.config,
        rate_limiter=None,
        **patch_from_settings(drive.limits.current),
        cache=drive.device.cache,
        workers=drive.processes.worker_count or drive.config.workers,
        is_root_device=drive.settings.is_root_device,
        partuuid=drive.settings.partuuid,
    )


def fixed_differences(before: DriveConfig, after: DriveConfig) -> list[str]:
    """The fields that differ and cannot be changed while a drive runs."""
    changeable = _LIMIT_FIELDS | _SETTABLE
    return [name for name in _different(before, after) if name not in changeable]


def settable_differences(before: DriveConfig, after: DriveConfig) -> dict[str, Any]:
    """The fields that differ and can be changed, limits aside, with their new values."""
    return {name: getattr(after, name) for name in _different(before, after) if name in _SETTABLE}


def limit_differences(current: RateLimitSettings, after: DriveConfig) -> dict[str, BucketSettings | None]:
    """The buckets that are to be set for the limits of `after`. Raises `ProgramError`."""
    return changed_buckets(current, after.rate_limits())


def _different(before: DriveConfig, after: DriveConfig) -> list[str]:
    names = DriveConfig.__struct_fields__
    return [name for name in names if getattr(before, name) != getattr(after, name)]
