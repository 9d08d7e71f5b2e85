"""What a drive has become of its options, and why: for the log's first line and the control API."""

import msgspec

from ringblk.engine.base.number_text import size_text
from ringblk.engine.devices.io_plan import IoPlan
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.platform.abilities import HAS_SANDBOX
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.sandbox.sandbox import Sandbox


class DriveFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are carried out, and by processes that are held to what."""

    direct: bool
    """Whether I/O goes past the host's page cache."""
    direct_reason: str
    io_engine: str
    """As `IoPlan.name`."""
    io_engine_reason: str
    sandbox: str


def drive_facts(config: DriveConfig, backend: NativeBackend, plan: IoPlan, sandbox: Sandbox) -> DriveFacts:
    """Put them together."""
    direct = backend.direct_io()
    return DriveFacts(
        direct=direct.is_direct,
        direct_reason=direct.reason,
        io_engine=plan.name,
        io_engine_reason=plan.reason,
        sandbox=_sandbox_level(config, sandbox),
    )


def first_line(config: DriveConfig, facts: DriveFacts, size_bytes: int, *, is_read_only: bool) -> str:
    """What a drive says of itself at its start."""
    place = config.socket_path if config.socket_path is not None else f"descriptor {config.fd}"
    return (
        f"{config.storage_name}, {size_text(size_bytes)}{', read-only' if is_read_only else ''}, at {place}:"
        f" {'direct' if facts.direct else 'not direct'} ({facts.direct_reason}),"
        f" I/O engine {facts.io_engine} ({facts.io_engine_reason}), sandbox {facts.sandbox}"
    )


def _sandbox_level(config: DriveConfig, sandbox: Sandbox) -> str:
    level = "off" if config.sandbox == "off" else "on"
    if not HAS_SANDBOX and config.sandbox != "off":
        level = "off (none in this build)"
    elif sandbox.missing:
        level += f" without {' and '.join(sandbox.missing)}"
    return level if config.user is None else f"{level}, user {config.user}"
