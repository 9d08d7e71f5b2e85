"""How users write rate limits: Firecracker's `rate_limiter`, or plain numbers as on the command line."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta
from msgspec.structs import fields

from ringblk.engine.base.number_text import read_sizes
from ringblk.shm.rates.bucket_settings import MAX_TOKENS, BucketSettings, BucketSettingsError
from ringblk.shm.rates.limit_settings import RateLimitSettings

Count = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
PositiveCount = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
S = TypeVar("S", bound=msgspec.Struct)


class RateLimiterError(ValueError):
    """A rate limit that cannot be had: the message begins with the field to change, `field` names it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class TokenBucketConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Firecracker's TokenBucket: `size` tokens, refilled evenly within `refill_time` milliseconds.

    A `size` or `refill_time` of 0 is no limit, as there.
    """

    size: Count
    refill_time: Count
    one_time_burst: Count | None = None

    def bucket(self) -> BucketSettings | None:
        """Return the bucket this describes, None for no limit."""
        if self.size == 0 or self.refill_time == 0:
            return None
        return BucketSettings(
            tokens=self.size,
            period_ms=self.refill_time,
            burst=self.size,
            one_time_burst=self.one_time_burst or 0,
        )


class WholeBucket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One limit with all that belongs to it, where a plain number cannot say it."""

    tokens: PositiveCount
    period_ms: PositiveCount = 1000
    burst: PositiveCount | None = None
    one_time_burst: Count = 0

    def bucket(self) -> BucketSettings:
        """Return the bucket this describes."""
        return BucketSettings(
            tokens=self.tokens, period_ms=self.period_ms, burst=self.burst, one_time_burst=self.one_time_burst
        )


class RateLimiterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Firecracker's RateLimiter: reads and writes together, in bytes (`bandwidth`) and operations (`ops`)."""

    bandwidth: TokenBucketConfig | None = None
    ops: TokenBucketConfig | None = None


class RateLimitOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Plain limits, in bytes or operations a second. A burst without its limit is refused.

    `burst` is for the byte limits and `iops_burst` for the others: the size of each bucket, a tenth of a
    second's worth by default. The one-time bursts go with the limits of reads and writes together.

    This is the list of the limits: options, help and the bodies of the control API are made from it.
    """

    bps: Annotated[
        PositiveCount | None,
        Meta(
            description="bytes a second, reads and writes together; sizes such as 100M (of 1024) everywhere"
        ),
    ] = None
    bps_read: Annotated[PositiveCount | None, Meta(description="bytes a second of reads")] = None
    bps_write: Annotated[PositiveCount | None, Meta(description="bytes a second of writes")] = None
    burst: Annotated[
        PositiveCount | None,
        Meta(description="bytes that may go at once (default: a tenth of a second's worth)"),
    ] = None
    one_time_burst: Annotated[
        PositiveCount | None, Meta(description="bytes that go first without counting, once")
    ] = None
    iops: Annotated[PositiveCount | None, Meta(description="operations a second, all together")] = None
    iops_read: Annotated[PositiveCount | None, Meta(description="reads a second")] = None
    iops_write: Annotated[PositiveCount | None, Meta(description="writes a second")] = None
    iops_burst: Annotated[
        PositiveCount | None,
        Meta(description="operations that may go at once (default: a tenth of a second's worth)"),
    ] = None
    iops_one_time_burst: Annotated[
        PositiveCount | None, Meta(description="operations that go first without counting, once")
    ] = None


LIMIT_NAMES = RateLimitOptions.__struct_fields__


def limit_help() -> dict[str, str]:
    """What each limit is, in the words of the command line's help."""
    return {field.name: field.type.__metadata__[0].description for field in fields(RateLimitOptions)}


# For each bucket: where it stands in Firecracker's form, and the limits that make it: its rate, its size,
# its one-time burst ("" for a bucket without).
_FORMS: dict[str, tuple[str, tuple[str, str, str]]] = {
    "bytes_total": ("rate_limiter.bandwidth", ("bps", "burst", "one_time_burst")),
    "bytes_read": ("", ("bps_read", "burst", "")),
    "bytes_write": ("", ("bps_write", "burst", "")),
    "ops_total": ("rate_limiter.ops", ("iops", "iops_burst", "iops_one_time_burst")),
    "ops_read": ("", ("iops_read", "iops_burst", "")),
    "ops_write": ("", ("iops_write", "iops_burst", "")),
}
RATE_OF_BUCKET = {bucket: rate for bucket, (_, (rate, _, _)) in _FORMS.items()}
"""The limit that sets each bucket's rate."""
_BURSTS = [name for name in LIMIT_NAMES if name not in RATE_OF_BUCKET.values()]
_NEEDS = {burst: [words[0] for _, words in _FORMS.values() if burst in words] for burst in _BURSTS}
"""The rates of which one has to be there for a burst."""
BYTE_LIMITS = tuple(
    name
    for name in LIMIT_NAMES
    if any(name in words for bucket, (_, words) in _FORMS.items() if bucket.startswith("bytes_"))
)
"""Limits that are bytes, and may be written as sizes."""


def with_limits(rate_type: Any, burst_type: Any, default: Any) -> Callable[[type[S]], type[S]]:
    """Have a struct end with a field for each limit, of these types."""

    def extend(struct: type[S]) -> type[S]:
        named = [(name, burst_type if name in _BURSTS else rate_type, default) for name in LIMIT_NAMES]
        extended = msgspec.defstruct(
            struct.__name__, named, bases=(struct,), module=struct.__module__, kw_only=True
        )
        extended.__doc__ = struct.__doc__
        return cast("type[S]", extended)

    return extend


def buckets_from_config(config: RateLimiterConfig) -> dict[str, BucketSettings | None]:
    """Return the buckets that Firecracker's form names, by name; those it leaves out are left as they are.

    For RateLimit.configure_some. Raises RateLimiterError.
    """
    buckets: dict[str, BucketSettings | None] = {}
    for name, part in (("bytes_total", config.bandwidth), ("ops_total", config.ops)):
        if part is not None:
            buckets[name] = part.bucket()
            path = _FORMS[name][0]
            _check(buckets[name], {"tokens": f"{path}.size", "period_ms": f"{path}.refill_time"}, path)
    return buckets


def settings_from_config(config: RateLimiterConfig) -> RateLimitSettings:
    """Return the six buckets for Firecracker's form; raises RateLimiterError."""
    return RateLimitSettings(**buckets_from_config(config))


def buckets_from_patch(limits: Mapping[str, "int | WholeBucket | None"]) -> dict[str, BucketSettings | None]:
    """Return the buckets whose limits are among these plain ones, by name; None (or 0) takes a limit away.

    A burst goes with the limits that are numbers beside it. Limits that are not named are left as they are.
    """
    whole = {name: value for name, value in limits.items() if isinstance(value, WholeBucket)}
    given = {name: value for name, value in limits.items() if value and name not in whole}
    settings = settings_from_options(msgspec.convert(given, RateLimitOptions))
    buckets = {name: getattr(settings, name) for name, (_, (rate, *_)) in _FORMS.items() if rate in limits}
    for name, (_, (rate, *_)) in _FORMS.items():
        if rate in whole:
            buckets[name] = whole[rate].bucket()
            _check(buckets[name], {}, rate)
    return buckets


def patch_from_settings(settings: RateLimitSettings) -> dict[str, "int | WholeBucket | None"]:
    """Every plain limit, as `buckets_from_patch` takes it: None where there is none.

    A bucket is a number where the plain form can say it, else an object of its own.
    """
    patch: dict[str, int | WholeBucket | None] = {}
    for burst_name in ("burst", "iops_burst"):
        forms = {name: words for name, (_, words) in _FORMS.items() if words[1] == burst_name}
        buckets = {name: getattr(settings, name) for name in forms}
        bursts = {bucket.burst_tokens for bucket in buckets.values() if bucket is not None}
        patch[burst_name] = None
        for name, (rate, _, once) in forms.items():
            bucket = buckets[name]
            if once:
                patch[once] = None
            if bucket is None or bucket.tokens == 0:
                patch[rate] = None
            elif (
                bucket.tokens * 1000 % bucket.period_ms
                or len(bursts) > 1
                or (bucket.one_time_burst and not once)
            ):
                patch[rate] = WholeBucket(
                    tokens=bucket.tokens,
                    period_ms=bucket.period_ms,
                    burst=bucket.burst_tokens,
                    one_time_burst=bucket.one_time_burst,
                )
            else:
                patch[rate] = bucket.tokens * 1000 // bucket.period_ms
                patch[burst_name] = bucket.burst_tokens
                if once:
                    patch[once] = bucket.one_time_burst or None
    return patch


def settings_from_options(options: RateLimitOptions) -> RateLimitSettings:
    """Return the six buckets for plain options; raises RateLimiterError."""
    for burst, limits in _NEEDS.items():
        if getattr(options, burst) is not None and all(getattr(options, limit) is None for limit in limits):
            raise RateLimiterError(burst, f"is given without {' or '.join(limits)}")
    buckets: dict[str, BucketSettings] = {}
    for name, (_, (rate, burst, one_time_burst)) in _FORMS.items():
        tokens = getattr(options, rate)
        if tokens is None:
            continue
        once = getattr(options, one_time_burst) if one_time_burst else None
        bucket = BucketSettings(tokens=tokens, burst=getattr(options, burst), one_time_burst=once or 0)
        _check(bucket, {"tokens": rate, "burst": burst, "one_time_burst": one_time_burst}, rate)
        buckets[name] = bucket
    return RateLimitSettings(**buckets)


def read_limit_sizes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same limits, in either form, with numbers for byte counts that are written as sizes ("100M")."""
    found = read_sizes(fields, BYTE_LIMITS)
    for name in BYTE_LIMITS:
        if isinstance(value := found.get(name), dict):
            found[name] = read_sizes(value, ("tokens", "burst", "one_time_burst"))
    if isinstance(limiter := found.get("rate_limiter"), dict):
        found["rate_limiter"] = _with_bandwidth_sizes(limiter)
    return found


def _with_bandwidth_sizes(limiter: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(limiter)
    if isinstance(bandwidth := found.get("bandwidth"), dict):
        found["bandwidth"] = read_sizes(bandwidth, ("size", "one_time_burst"))
    return found


def decode_rate_limiter(value: Mapping[str, Any]) -> RateLimiterConfig:
    """Check a decoded JSON object in Firecracker's form; raises RateLimiterError naming the field."""
    try:
        return msgspec.convert(_with_bandwidth_sizes(value), RateLimiterConfig)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise RateLimiterError(f"rate_limiter{path.rstrip('`')}", reason) from None


def _check(bucket: BucketSettings | None, fields: Mapping[str, str], path: str) -> None:
    """Refuse what makes no bucket in the words of the form that it was written in."""
    try:
        if bucket is not None:
            bucket.terms()
    except BucketSettingsError as error:
        field = fields.get(error.field, f"{path}.{error.field}")
        raise RateLimiterError(field, error.reason) from None
