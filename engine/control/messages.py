"""The bodies of the control API, in and out."""

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from ringblk.engine.base.json_text import NotJson, decode_json
from ringblk.engine.base.number_text import read_sizes
from ringblk.engine.drives.base_status import BaseStatus
from ringblk.engine.drives.changes import ChangeRefused
from ringblk.engine.options.drive_config import SIZE_OPTIONS, CacheMode, PartitionId
from ringblk.engine.options.rate_limiter_config import (
    LIMIT_NAMES,
    Count,
    RateLimiterConfig,
    WholeBucket,
    read_limit_sizes,
    with_limits,
)
from ringblk.shm.state.segment import MAX_WORKERS
from ringblk.workers.backends.answers import ServerConnection

Burst = Count | None | UnsetType
Limit = Count | WholeBucket | None | UnsetType
Body = TypeVar("Body")


@with_limits(Limit, Burst, UNSET)
class DriveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`PATCH /drive`: what is named changes, all of it or nothing. A limit of null or 0 is taken away."""

    size_bytes: Annotated[int, msgspec.Meta(ge=1)] | Literal["image"] | UnsetType = UNSET
    cache: CacheMode | UnsetType = UNSET
    is_root_device: bool | UnsetType = UNSET
    partuuid: PartitionId | UnsetType | None = UNSET
    rate_limiter: RateLimiterConfig | UnsetType = UNSET

    def plain_limits(self) -> dict[str, int | WholeBucket | None]:
        """The plain limits that are named."""
        return {name: getattr(self, name) for name in LIMIT_NAMES if getattr(self, name) is not UNSET}


class WorkersBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`PATCH /workers`."""

    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS)]


@with_limits(int | WholeBucket | None, int | None, None)
class DriveDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The drive, in `GET /`. What `PATCH /drive` names the same it takes as it stands here.

    `limits` names the token buckets that are in use.
    """

    name: str
    id: str
    size_bytes: int
    read_only: bool
    cache: CacheMode
    num_queues: int
    is_root_device: bool
    partuuid: str | None
    limits: list[str]
    rate_group: str | None


class EngineDescription(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /`. Processes are process ids by role."""

    version: str
    device: str
    socket_path: str | None
    drive: DriveDescription
    direct: bool
    direct_reason: str
    io_engine: str
    io_engine_reason: str
    sandbox: str
    uptime_s: float
    is_paused: bool
    is_connected: bool
    worker_count: int
    """Workers that there may be, as in `PATCH /workers`."""
    workers_up: int
    """Those that there are now; none at rest."""
    server: ServerConnection | None
    """Of a drive whose bytes a server keeps: how it stands with that."""
    base: BaseStatus | None
    """Of a drive whose base is fetched: how it stands with that."""
    processes: dict[str, int]


def decode_body(data: bytes, body_type: type[Body]) -> Body:
    """Check a body. Raises `ChangeRefused` that names the field."""
    try:
        fields = decode_json(data)
        if isinstance(fields, dict):
            fields = read_sizes(read_limit_sizes(fields), ("size_bytes", *SIZE_OPTIONS))
        return msgspec.convert(fields, body_type)
    except msgspec.ValidationError as error:
        raise ChangeRefused(*_field_and_reason(str(error))) from error
    except NotJson as error:
        raise ChangeRefused("", f"the body is not JSON: {error}") from error


def _field_and_reason(text: str) -> tuple[str, str]:
    """msgspec names a field at fault as ` - at `$.a.b``, a missing or unknown one in the message."""
    reason, _, path = text.partition(" - at `$")
    field = path.rstrip("`").removeprefix(".")
    for phrase in ("Object contains unknown field `", "Object missing required field `"):
        if reason.startswith(phrase):
            name = reason.removeprefix(phrase).rstrip("`")
            field = f"{field}.{name}" if field else name
    return field, reason
