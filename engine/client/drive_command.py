"""`ringblk drive`: asks an engine's control API, and says in a line what was done."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import FieldInfo

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.json_text import NotJson, decode_json
from ringblk.engine.base.number_text import size_text
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.text_table import terminal_width
from ringblk.engine.client.commands import clone_option_fields
from ringblk.engine.client.control_client import AllDrives, ControlClient, OneDrive, drive_path
from ringblk.engine.client.drive_view import done_line, drive_lines, list_lines
from ringblk.engine.client.layer_command import LAYER_COMMANDS
from ringblk.engine.client.output import print_json, say
from ringblk.engine.options.command_line import drive_option_fields, given_values
from ringblk.engine.options.drive_config import PATHS
from ringblk.engine.options.rate_limiter_config import BYTE_LIMITS, LIMIT_NAMES
from ringblk.workers.fetch.source_form import is_uri

NOTHING = ("none", "0")
"""How a limit is written that is to be taken away."""


def list_drives(arguments: argparse.Namespace) -> int:
    """`ringblk drive list`."""
    answer = ControlClient(arguments.control).ask("GET", "/drives", shape=AllDrives)
    if arguments.output == "json":
        print_json(answer)
    elif answer["drives"]:
        print("\n".join(list_lines(answer["drives"], terminal_width())))
    else:
        print("this engine has no drives")
    return ExitStatus.DONE


def show_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive show`."""
    answer = ControlClient(arguments.control).ask("GET", drive_path(arguments.drive), shape=OneDrive)
    if arguments.output == "json":
        print_json(answer)
    else:
        print("\n".join(drive_lines(arguments.drive, answer)))
    return ExitStatus.DONE


def add_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive add`. A path is where this program was started, whatever folder the engine is in."""
    return say(arguments, "added", _put_new(arguments, arguments.drive, drive_option_fields(), {}))


def clone_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive clone`: another drive, on a snapshot of this one; paths as with `add`."""
    client = ControlClient(arguments.control)
    source = client.ask("GET", drive_path(arguments.drive), shape=OneDrive)
    if not source.get("overlay"):
        raise ProgramError(
            f"drive {arguments.drive} has no overlay: only those have snapshots", ExitStatus.FAILED
        )
    base = {"base": source["overlay"], "base_snapshot": arguments.snapshot}
    answer = _put_new(arguments, arguments.new, clone_option_fields(), base)
    if arguments.output == "json":
        print_json(answer)
    else:
        print(done_line(arguments.new, f"a clone of {arguments.drive} at {arguments.snapshot}", answer))
    return ExitStatus.DONE


def _put_new(
    arguments: argparse.Namespace, name: str, options: Sequence[FieldInfo], settings: Mapping[str, Any]
) -> Any:
    client = ControlClient(arguments.control)
    if name in client.ask("GET", "/drives", shape=AllDrives)["drives"]:
        raise ProgramError(f"drive {name} is there already", ExitStatus.FAILED)
    given: dict[str, Any] = given_values(arguments, options)
    body = {field: _place(value) if field in PATHS else value for field, value in given.items()}
    if "sandbox_allow" in body:
        body["sandbox_allow"] = list(map(os.path.abspath, given["sandbox_allow"]))
    return client.ask("PUT", drive_path(name), {**body, **settings}, shape=OneDrive)


def _place(path: str) -> str:
    return path if is_uri(path) else os.path.abspath(path)


def set_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive set`."""
    given = {
        "workers": arguments.workers,
        "cache": arguments.cache,
        "is_root_device": None if arguments.is_root_device is None else arguments.is_root_device == "yes",
        "partuuid": arguments.partuuid,
    }
    body: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise ProgramError("nothing to set: see --help")
    if body.get("partuuid") == "none":
        body["partuuid"] = None
    return _patch(arguments, body, ", ".join(body) + " set")


def limit_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive limit`."""
    body: dict[str, Any] = {}
    for name in LIMIT_NAMES:
        if (text := getattr(arguments, name)) is not None:
            body[name] = _limit(name, text)
    if arguments.none:
        body = {**dict.fromkeys(LIMIT_NAMES), **body}
    if arguments.rate_limiter is not None:
        try:
            body["rate_limiter"] = decode_json(arguments.rate_limiter)
        except NotJson as error:
            raise ProgramError(f"--rate-limiter: {error}") from error
    if not body:
        raise ProgramError("no limit to set: see --help")
    answer = _ask_patch(arguments, body)
    limits = ", ".join(answer["state"].get("limits") or ()) or "none"
    return say(arguments, f"limits: {limits}", answer)


def resize_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive resize`."""
    answer = _ask_patch(arguments, {"size_bytes": arguments.size})
    return say(arguments, size_text(answer["state"]["size_bytes"]), answer)


def pause_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive pause`: done once nothing is in flight."""
    return _patch(arguments, {"is_paused": True}, "begins no more requests")


def resume_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive resume`."""
    return _patch(arguments, {"is_paused": False}, "goes on")


def remove_drive(arguments: argparse.Namespace) -> int:
    """`ringblk drive remove`."""
    force = "?force=true" if arguments.force else ""
    ControlClient(arguments.control).ask("DELETE", drive_path(arguments.drive) + force)
    if arguments.output == "human":
        print(f"{arguments.drive}: removed")
    return ExitStatus.DONE


def _patch(arguments: argparse.Namespace, body: Mapping[str, Any], what: str) -> int:
    return say(arguments, what, _ask_patch(arguments, body))


def _ask_patch(arguments: argparse.Namespace, body: Mapping[str, Any]) -> Any:
    return ControlClient(arguments.control).ask("PATCH", drive_path(arguments.drive), body, shape=OneDrive)


def _limit(name: str, text: str) -> str | int | None:
    """A size goes as it is written: the engine reads it, and says what is wrong with it."""
    if text in NOTHING:
        return None
    if name in BYTE_LIMITS:
        return text
    try:
        return int(text)
    except ValueError:
        raise ProgramError(f"--{name.replace('_', '-')}: {text} is not a whole number") from None


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_drives,
    "show": show_drive,
    "add": add_drive,
    "set": set_drive,
    "remove": remove_drive,
    "pause": pause_drive,
    "resume": resume_drive,
    "resize": resize_drive,
    "limit": limit_drive,
    "clone": clone_drive,
    **LAYER_COMMANDS,
}
"""By the words of the command line."""
