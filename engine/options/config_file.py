"""Configuration files: JSON or TOML, an engine and one drive side by side, or a list of drives."""

import contextlib

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.json_text import decode_json_once
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.config import EngineConfig, EngineOptions, FlatConfig, in_field_names
from ringblk.engine.options.drive_config import DriveConfig, read_config_sizes
from ringblk.engine.options.drive_names import NAME_RULE, is_drive_name, quoted_name

MAX_FILE_BYTES = 16 << 20
"""Room for tens of thousands of drives."""
DRIVES = "drives"
"""The key under which a list of drives stands."""


def read_config_file(path: str) -> dict[str, object]:
    """The fields that a configuration file sets. Raises `ProgramError` naming a wrong key or value."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ProgramError(f"--config {path}: {error.strerror or error}", ExitStatus.FAILED) from error
    if len(data) > MAX_FILE_BYTES:
        raise ProgramError(f"--config {path}: is larger than {MAX_FILE_BYTES} bytes")
    values = _decode(path, data)
    try:
        if not isinstance(values, dict):
            raise ProgramError(f"--config {path}: not a JSON object")
        if DRIVES in values:
            return _read_list(path, values)
        _check_hyphens(path, values, FlatConfig)
        values = read_config_sizes(values)
        msgspec.convert(values, FlatConfig)
    except msgspec.ValidationError as error:
        raise ProgramError(f"--config {path}: {error}") from error
    return values


def list_config(path: str, values: dict[str, object]) -> EngineConfig:
    """An engine with a list of drives, from what `read_config_file` gave. Raises `ProgramError`."""
    try:
        config = msgspec.convert(values, EngineConfig)
        config.check()
    except msgspec.ValidationError as error:
        raise ProgramError(f"--config {path}: {error}") from error
    except ProgramError as error:
        raise ProgramError(f"--config {path}: {in_field_names(str(error))}", error.exit_status) from error
    return config


def _decode(path: str, data: bytes) -> object:
    """JSON; TOML where the name ends so. Raises `ProgramError`."""
    try:
        return _decode_toml(data) if path.endswith(".toml") else decode_json_once(data)
    except ValueError as error:  # a number of 5000 digits, too
        raise ProgramError(f"--config {path}: {error}") from error
    except RecursionError as error:
        raise ProgramError(f"--config {path}: it is nested too deeply") from error


def _decode_toml(data: bytes) -> dict[str, object]:
    import tomllib  # few files are

    return tomllib.loads(data.decode())


def _read_list(path: str, values: dict[str, object]) -> dict[str, object]:
    """The same, with numbers for sizes, and checked a drive at a time, so that an error names it."""
    drives = values[DRIVES]
    if not isinstance(drives, dict):
        raise ProgramError(f"--config {path}: `{DRIVES}` is not an object of drives by name")
    of_engine = {name: value for name, value in values.items() if name != DRIVES}
    for name in of_engine:
        if name.lstrip("-").replace("-", "_") in DriveConfig.__struct_fields__:
            raise ProgramError(f"--config {path}: `{name}` is of a drive: it stands below its name there")
    _check_hyphens(path, of_engine, EngineOptions)
    msgspec.convert(of_engine, EngineOptions)
    return {**of_engine, DRIVES: {name: _read_drive(path, name, drive) for name, drive in drives.items()}}


def _read_drive(path: str, name: str, values: object) -> dict[str, object]:
    if not is_drive_name(name):
        raise ProgramError(f"--config {path}: drive {quoted_name(name)}: {NAME_RULE}")
    if not isinstance(values, dict):
        raise ProgramError(f"--config {path}: drive {name}: not an object")
    with contextlib.suppress(StopIteration):
        key = next(key for key in values if key in EngineOptions.__struct_fields__)
        raise ProgramError(
            f"--config {path}: drive {name}: `{key}` is of the engine: it stands beside `{DRIVES}`"
        )
    _check_hyphens(f"{path}: drive {name}", values, DriveConfig)
    values = read_config_sizes(values)
    try:
        msgspec.convert(values, DriveConfig)
    except msgspec.ValidationError as error:
        raise ProgramError(f"--config {path}: drive {name}: {error}") from error
    return values


def _check_hyphens(path: str, values: dict[str, object], config_type: type[msgspec.Struct]) -> None:
    """Raise `ProgramError` for a key that is written as on the command line."""
    for name in values:
        key = name.lstrip("-").replace("-", "_")
        if key != name and key in config_type.__struct_fields__:
            raise ProgramError(f"--config {path}: `{name}` is written `{key}` here")
