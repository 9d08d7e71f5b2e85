"""What an engine is started with: command line and configuration file come down to one `EngineConfig`."""

import os
import re
from typing import Literal, TypeVar

import msgspec
from msgspec.structs import fields

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.drive_config import DriveConfig, check_path, option_of, read_config_sizes
from ringblk.engine.options.drive_names import NAME_RULE, SOLE_DRIVE, is_drive_name, quoted_name

S = TypeVar("S", bound=msgspec.Struct)
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine is started with beside its drives."""

    takeover: bool = False
    """Engines that use the same images or sockets are to end, and their front ends to go on with this one."""
    replace_image: bool = False
    """With `takeover`: the engine at a socket may have another image, which its guest's disk turns into."""
    forget_changes: bool = False
    """Begin with these settings, whatever was changed while an earlier engine ran."""
    control: str | None = None
    """Serve the control API on this unix socket."""
    log_format: Literal["human", "json"] = "human"


class EngineConfig(EngineOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine and its drives."""

    drives: dict[str, DriveConfig]
    """By name; the only one of an engine that was made for one has the name `SOLE_DRIVE`."""

    @property
    def is_sole(self) -> bool:
        """Whether it is an engine for one drive, which begins and ends with it."""
        return SOLE_DRIVE in self.drives

    @property
    def runs_own_code_only(self) -> bool:
        """Whether no user's class is a backend, and none can come by the control API."""
        is_open = self.control is not None and not self.is_sole
        return not is_open and not any(drive.runs_user_code for drive in self.drives.values())

    def check(self) -> None:
        """Raise `ProgramError` for what the types cannot say."""
        if self.control == "":  # Linux would listen on a name of its own choice
            raise ProgramError("--control is empty")
        check_path("control", self.control)
        if self.is_sole:
            self.drives[SOLE_DRIVE].check()
        else:
            self._check_list()
        for drive in self.drives.values():
            self._check_takeover(drive)

    def _check_takeover(self, drive: DriveConfig) -> None:
        if self.takeover and drive.blk_file is None and drive.overlay is None and drive.socket_path is None:
            raise ProgramError(
                "--takeover needs --blk-file, --overlay or --socket-path, to find the other engine by"
            )
        if self.replace_image and not (self.takeover and drive.socket_path):
            raise ProgramError("--replace-image needs --takeover and --socket-path")

    def _check_list(self) -> None:
        if not self.drives and self.control is None:
            raise ProgramError("no drives, and without control none can be added")
        sockets: dict[str, str] = {} if self.control is None else {place_of(self.control): "control"}
        for name, drive in self.drives.items():
            check_drive(name, drive)
            if drive.socket_path is not None:
                other = sockets.setdefault(place_of(drive.socket_path), f"drive {name}")
                if other != f"drive {name}":
                    raise ProgramError(f"drive {name}: socket_path {drive.socket_path} is {other}'s, too")


def check_drive(name: str, drive: DriveConfig) -> None:
    """Check one drive of a list. Raises `ProgramError` that names it."""
    if not is_drive_name(name):
        raise ProgramError(f"drive {quoted_name(name)}: {NAME_RULE}")
    try:
        drive.check()
    except ProgramError as error:
        raise of_drive(name, error) from error


def of_drive(name: str, error: ProgramError) -> ProgramError:
    """The same error, of a drive of a list, in the words of a configuration file."""
    if name == SOLE_DRIVE:
        return error
    return ProgramError(f"drive {name}: {in_field_names(str(error))}", error.exit_status)


def in_field_names(text: str) -> str:
    """A text that speaks of options, with the names of a configuration file's fields for a drive's."""

    def field(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        return name if name in DriveConfig.__struct_fields__ else match[0]

    return _OPTION.sub(field, text)


def place_of(path: str) -> str:
    """What two paths of one socket have in common, be it there or not."""
    try:
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    except FileNotFoundError:  # the folder that it was started in has been removed: who listens will say so
        return path


FlatConfig = msgspec.defstruct(
    "FlatConfig",
    [
        # What the guest is offered at the start; writethrough is for a drive that runs.
        ("cache", Literal["writeback", "unsafe"], "writeback"),
        *((field.name, field.type, field.default) for field in fields(EngineOptions)),
    ],
    bases=(DriveConfig,),
    module=__name__,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
)
"""An engine and its one drive side by side. The options of `ringblk serve` are these fields, with hyphens."""


def make_config(values: dict[str, object]) -> EngineConfig:
    """An engine for one drive, from the fields of both. Checks everything. Raises `ProgramError`."""
    values = read_config_sizes(values)
    convert_fields(values, FlatConfig)
    of_engine = {name: values[name] for name in EngineOptions.__struct_fields__ if name in values}
    of_drive = {name: value for name, value in values.items() if name not in of_engine}
    config = msgspec.convert({**of_engine, "drives": {SOLE_DRIVE: of_drive}}, EngineConfig)
    config.check()
    return config


def convert_fields(values: dict[str, object], config_type: type[S]) -> S:
    """Check types. Raises `ProgramError` in the command line's words."""
    try:
        return msgspec.convert(values, config_type)
    except msgspec.ValidationError as error:
        raise ProgramError(_with_option_name(str(error))) from error


def _with_option_name(text: str) -> str:
    """msgspec's `... - at `$.num_queues`` in the command line's words."""
    message, _, place = text.partition(" - at `$.")
    if not place:
        return text
    return f"{option_of(place.rstrip('`').split('.')[0].split('[')[0])}: {message}"
