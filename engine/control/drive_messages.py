"""The bodies of `/drives`, in and out: a drive as a configuration file has it, and what has become of it."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from ringblk.engine.control.messages import DriveBody
from ringblk.engine.drives.base_status import BaseStatus
from ringblk.engine.drives.drives import DriveState
from ringblk.engine.drives.layer_reports import JobStatus
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.statistics.statistics import StatisticsSnapshot
from ringblk.shm.state.segment import MAX_WORKERS
from ringblk.workers.backends.answers import ServerConnection


class DriveStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has become of a drive. Only the first three are there for one that could not be opened.

    `limits` names the token buckets that are in use; processes are process ids by role.
    """

    name: str
    state: DriveState
    reason: str = ""
    """Why it has failed."""
    storage: str = ""
    """The image's path, or the backend's name."""
    size_bytes: int | None = None
    read_only: bool | None = None
    is_paused: bool | None = None
    is_connected: bool | None = None
    uptime_s: float | None = None
    direct: bool | None = None
    direct_reason: str | None = None
    io_engine: str | None = None
    io_engine_reason: str | None = None
    sandbox: str | None = None
    limits: list[str] | None = None
    processes: dict[str, int] | None = None
    server: ServerConnection | None = None
    """Of a drive whose bytes a server keeps: how it stands with that."""
    base: BaseStatus | None = None
    """Of a drive whose base is fetched: how it stands with that."""
    job: JobStatus | None = None
    """What is merged of its layers, if anything is."""
    is_outdated: bool | None = None
    """Whether its processes are of a program before an upgrade."""


class UpgradeAnswer(msgspec.Struct, frozen=True):
    """`/upgrade`: which program the control plane is, and what of the drives is not of it yet."""

    version: str
    """Of the control plane; in the answer to POST, of the one that goes on."""
    program_id: str
    """Another after each upgrade, be the version another or not."""
    outdated: list[str]
    """The drives whose processes are of a program before it."""


class DriveAnswer(DriveConfig, frozen=True, kw_only=True):
    """`GET /drives/{id}`: the settings as they are now, which PUT takes, and `state`."""

    state: DriveStatus


class DrivesAnswer(msgspec.Struct, frozen=True):
    """`GET /drives`."""

    drives: dict[str, DriveAnswer]


class StatisticsAnswer(msgspec.Struct, frozen=True):
    """`GET /stats` of an engine with a list of drives."""

    drives: dict[str, StatisticsSnapshot]


class DrivePut(DriveConfig, frozen=True, kw_only=True):
    """`PUT /drives/{id}`: all settings of a drive; those that are left out have their defaults."""

    state: object | UnsetType = UNSET
    """What GET gave; not looked at."""

    def config(self) -> DriveConfig:
        """The settings alone."""
        return DriveConfig(**{name: getattr(self, name) for name in DriveConfig.__struct_fields__})


class DrivePatch(DriveBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`PATCH /drives/{id}`: what is named changes, all of it or nothing."""

    workers: Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS)] | UnsetType = UNSET
    is_paused: bool | UnsetType = UNSET
