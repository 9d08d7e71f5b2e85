"""The bodies of the control API, in and out."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from ringblk.engine.block_device import CacheMode
from ringblk.engine.live_changes import ChangeRefused
from ringblk.engine.rate_limiter_config import Count, RateLimiterConfig, RateLimitOptions
from ringblk.shm.state import MAX_WORKERS

Limit = Count | None | UnsetType
Body = TypeVar("Body")


class DriveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`PATCH /drive`: what is named changes, all of it or nothing. A limit of null or 0 is taken away."""

    size_bytes: Annotated[int, msgspec.Meta(ge=1)] | Literal["image"] | UnsetType = UNSET
    cache: CacheMode | UnsetType = UNSET
    rate_limiter: RateLimiterConfig | UnsetType = UNSET
    bps: Limit = UNSET
    bps_read: Limit = UNSET
    bps_write: Limit = UNSET
    burst: Limit = UNSET
    one_time_burst: Limit = UNSET
    iops: Limit = UNSET
    iops_read: Limit = UNSET
    iops_write: Limit = UNSET
    iops_burst: Limit = UNSET
    iops_one_time_burst: Limit = UNSET

    def plain_limits(self) -> dict[str, int | None]:
        """The plain limits that are named."""
        names = [field.name for field in msgspec.structs.fields(RateLimitOptions)]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not UNSET}


class WorkersBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`PATCH /workers`."""

    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS)]


class DriveDescription(msgspec.Struct, frozen=True):
    """The drive, in `GET /`. `limits` names the token buckets that are in use."""

    name: str
    id: str
    size_bytes: int
    read_only: bool
    cache: CacheMode
    num_queues: int
    limits: list[str]
    rate_group: str | None


class EngineDescription(msgspec.Struct, frozen=True):
    """`GET /`. Processes are process ids by role."""

    version: str
    device: str
    drive: DriveDescription
    uptime_s: float
    is_paused: bool
    is_connected: bool
    processes: dict[str, int]


class ErrorBody(msgspec.Struct, frozen=True):
    """What comes with a status of 400 or more; `field` is empty where no field of the body is at fault."""

    error: str
    field: str = ""


def decode_body(data: bytes, body_type: type[Body]) -> Body:
    """Check a body. Raises `ChangeRefused` that names the field."""
    try:
        return msgspec.json.decode(data, type=body_type)
    except msgspec.ValidationError as error:
        raise ChangeRefused(*_field_and_reason(str(error))) from error
    except msgspec.DecodeError as error:
        raise ChangeRefused("", f"the body is not JSON: {error}") from error


def encode_body(body: Any) -> bytes:
    """A body with a line end, for people with curl."""
    return msgspec.json.encode(body) + b"\n"


def _field_and_reason(text: str) -> tuple[str, str]:
    """msgspec names a field at fault as ` - at `$.a.b``, a missing or unknown one in the message."""
    reason, _, path = text.partition(" - at `$")
    field = path.rstrip("`").removeprefix(".")
    for phrase in ("Object contains unknown field `", "Object missing required field `"):
        if reason.startswith(phrase):
            name = reason.removeprefix(phrase).rstrip("`")
            field = f"{field}.{name}" if field else name
    return field, reason
