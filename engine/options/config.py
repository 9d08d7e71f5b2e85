"""What an engine is started with: command line and configuration file come down to one `EngineConfig`."""

import contextlib
import os
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ringblk.engine.base.number_text import read_sizes
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.rate_limiter_config import (
    LIMIT_NAMES,
    RateLimiterError,
    RateLimitOptions,
    decode_rate_limiter,
    read_limit_sizes,
    settings_from_config,
    settings_from_options,
)
from ringblk.shm.layout.sizes import MAX_QUEUE_SIZE, MIN_QUEUE_SIZE, power_of_two_fault, queue_size_fault
from ringblk.shm.rates.group import group_name_fault
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.state.segment import MAX_QUEUES, MAX_WORKERS
from ringblk.workers.backends.direct_open import descriptor_of
from ringblk.workers.backends.topology import MAX_LOGICAL_BLOCK_BYTES, MAX_PHYSICAL_BLOCK_BYTES, SECTOR_BYTES

# One word of a kernel command line, and short enough for the drive's record.
PartitionId = Annotated[str, Meta(pattern=r"^[!-~]{1,64}\Z")]

BLOCK_SIZES = {
    "logical_block_size": MAX_LOGICAL_BLOCK_BYTES,
    "physical_block_size": MAX_PHYSICAL_BLOCK_BYTES,
}
"""Options that are bytes and no limits, and how many they may be at the most."""


class EngineConfig(RateLimitOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine, its drive and its limits. The options of `ringblk serve` are these fields, with hyphens."""

    socket_path: str | None = None
    """Listen here; or"""
    fd: Annotated[int, Meta(ge=0)] | None = None
    """an inherited socket, connected or listening."""
    blk_file: str | None = None
    """The image: a regular file or block device; or"""
    format: Literal["probe", "raw"] = "probe"
    """What the image is taken for: raw whatever it looks like, or refused where it is in another format."""
    backend: str | None = None
    """a backend by name: `memory`, `null`, or `package.module:Class`."""
    backend_arg: dict[str, str] = msgspec.field(default_factory=dict)
    """Arguments of the backend's constructor."""
    read_only: bool = False
    takeover: bool = False
    """An engine that uses this image or socket is to end, and its front end to go on with this one."""
    replace_image: bool = False
    """With `takeover`: the engine at the socket may have another image, which its guest's disk turns into."""
    forget_changes: bool = False
    """Begin with these options, whatever was set while an earlier engine of this drive ran."""
    workers: Annotated[int, Meta(ge=1, le=MAX_WORKERS)] = 4
    num_queues: Annotated[int, Meta(ge=1, le=MAX_QUEUES)] = 1
    queue_size: Annotated[int, Meta(ge=MIN_QUEUE_SIZE, le=MAX_QUEUE_SIZE)] = 128
    cache: Literal["writeback", "unsafe"] = "writeback"
    direct: Literal["auto", "on", "off"] = "auto"
    io_engine: Literal["auto", "psync", "io_uring", "io_uring_inline", "sync"] = "auto"
    poll_us: Annotated[int, Meta(ge=0, le=10000)] = 50
    rate_limiter: dict[str, object] | None = None
    """Firecracker's form of the limits, in place of the plain numbers."""
    rate_group: str | None = None
    """Share the limit with the engines of this group; the first one's settings hold."""
    user: str | None = None
    """Run as this user, or `user:group`, once everything is open."""
    sandbox: Literal["auto", "on", "off"] = "auto"
    """Keep workers and dispatcher to what they need (docs/sandbox.md)."""
    sandbox_allow: list[str] = msgspec.field(default_factory=list)
    """What a backend of a user's own may open besides, for reading and writing."""
    control: str | None = None
    """Serve the control API on this unix socket."""
    log_format: Literal["human", "json"] = "human"
    drive_id: str = "ringblk"
    is_root_device: bool = False
    """Kept for front ends that build a kernel command line, like the next."""
    partuuid: PartitionId | None = None
    logical_block_size: Annotated[int, Meta(ge=SECTOR_BYTES, le=MAX_LOGICAL_BLOCK_BYTES)] | None = None
    """None: 512 for a regular file, a block device's own."""
    physical_block_size: Annotated[int, Meta(ge=SECTOR_BYTES, le=MAX_PHYSICAL_BLOCK_BYTES)] | None = None
    """None: what the storage prefers."""

    def check(self) -> None:
        """Raise `ProgramError` for what the types cannot say."""
        if (self.socket_path is None) == (self.fd is None):
            raise ProgramError("give one of --socket-path and --fd")
        if "" in (self.socket_path, self.control):  # Linux would listen on a name of its own choice
            raise ProgramError(f"--{'control' if self.control == '' else 'socket-path'} is empty")
        if (self.blk_file is None) == (self.backend is None):
            raise ProgramError("give one of --blk-file and --backend")
        if self.takeover and self.blk_file is None and self.socket_path is None:
            raise ProgramError("--takeover needs --blk-file or --socket-path, to find the other engine by")
        if self.replace_image and not (self.takeover and self.socket_path):
            raise ProgramError("--replace-image needs --takeover and --socket-path")
        if self.backend_arg and self.backend is None:
            raise ProgramError("--backend-arg needs --backend")
        if self.sandbox_allow and self.sandbox == "off":
            raise ProgramError("--sandbox-allow needs a sandbox, and --sandbox is off")
        if self.direct == "on" and self.blk_file is None:
            raise ProgramError("--direct on: only for --blk-file")
        if not self.drive_id.isprintable():
            raise ProgramError(f"--drive-id {printable(self.drive_id)}: not of printable characters")
        if self.format == "raw" and self.blk_file is None:
            raise ProgramError("--format raw: only for --blk-file")
        if fault := queue_size_fault(self.queue_size):
            raise ProgramError(f"--queue-size {fault}")
        for name, most_bytes in BLOCK_SIZES.items():
            block_bytes = getattr(self, name) or SECTOR_BYTES
            if fault := power_of_two_fault(block_bytes, SECTOR_BYTES, most_bytes):
                raise ProgramError(f"{_option(name)} {fault}")
        if self.rate_group is not None and (fault := group_name_fault(self.rate_group)):
            raise ProgramError(f"--rate-group {self.rate_group!r}: {fault}")
        self.rate_limits()

    @property
    def drive_name(self) -> str:
        """What the drive is called in statistics: the image's path, or the backend's name."""
        if self.blk_file is not None:
            if (given := descriptor_of(self.blk_file)) is not None:
                with contextlib.suppress(OSError):
                    return os.readlink(f"/proc/self/fd/{given}")
            try:
                return os.path.join(os.getcwd(), self.blk_file)
            except FileNotFoundError:  # the folder that it was started in has been removed
                return self.blk_file
        return self.backend or ""

    @property
    def runs_own_code_only(self) -> bool:
        """Whether no user's class is its backend."""
        return ":" not in (self.backend or "")

    def rate_limits(self) -> RateLimitSettings:
        """The limits of the drive or its group. Raises `ProgramError`."""
        plain = [name for name in LIMIT_NAMES if getattr(self, name) is not None]
        try:
            if self.rate_limiter is None:
                return settings_from_options(self)
            if plain:
                raise ProgramError(f"give one of --rate-limiter and {_option(plain[0])}")
            return settings_from_config(decode_rate_limiter(self.rate_limiter))
        except RateLimiterError as error:
            raise ProgramError(_with_limit_names(str(error))) from error


def read_config_file(path: str) -> dict[str, object]:
    """The fields that a JSON configuration file sets. Raises `ProgramError` naming a wrong key or value."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ProgramError(f"--config {path}: {error.strerror or error}", exit_status=1) from error
    try:
        fields = msgspec.json.decode(data)
        if not isinstance(fields, dict):
            raise ProgramError(f"--config {path}: not a JSON object")
        _check_hyphens(path, fields)
        fields = read_config_sizes(fields)
        msgspec.convert(fields, EngineConfig)
    except msgspec.DecodeError as error:
        raise ProgramError(f"--config {path}: {error}") from error
    return fields


def _check_hyphens(path: str, fields: dict[str, object]) -> None:
    """Raise `ProgramError` for a key that is written as on the command line."""
    for name in fields:
        key = name.lstrip("-").replace("-", "_")
        if key != name and key in EngineConfig.__struct_fields__:
            raise ProgramError(f"--config {path}: `{name}` is written `{key}` here")


def read_config_sizes(fields: dict[str, object]) -> dict[str, object]:
    """The same fields, with numbers for bytes that are written as sizes."""
    return read_sizes(read_limit_sizes(fields), BLOCK_SIZES)


def make_config(fields: dict[str, object]) -> EngineConfig:
    """Check everything. Raises `ProgramError`."""
    try:
        config = msgspec.convert(read_config_sizes(fields), EngineConfig)
    except msgspec.ValidationError as error:
        raise ProgramError(_with_option_name(str(error))) from error
    config.check()
    return config


def _with_option_name(text: str) -> str:
    """msgspec's `... - at `$.num_queues`` in the command line's words."""
    message, _, place = text.partition(" - at `$.")
    if not place:
        return text
    return f"{_option(place.rstrip('`').split('.')[0].split('[')[0])}: {message}"


def _with_limit_names(text: str) -> str:
    """A limit's fault in the command line's words."""
    if text.startswith("rate_limiter"):
        return f"{_option('rate_limiter')}: {text.removeprefix('rate_limiter').lstrip('.: ')}"
    return " ".join(_option(word) if word.rstrip(":") in LIMIT_NAMES else word for word in text.split(" "))


def _option(field_name: str) -> str:
    return f"--{field_name.replace('_', '-')}"
