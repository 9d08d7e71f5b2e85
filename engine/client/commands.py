"""`ringblk drive` and `ringblk upgrade`: the command line's part of them."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec.structs import FieldInfo

from ringblk.engine.options.command_line import add_options, drive_option_fields, print_help
from ringblk.engine.options.rate_limiter_config import BYTE_LIMITS, limit_help

_OF_OTHER_DRIVES = {
    *("kind", "shared_dir", "tag", "guest_cache", "xattr", "posix_acl", "dax", "dax_window"),
    *("blk_file", "format", "track_changes", "read_only", "base", "base_snapshot"),
    *("base_cache", "base_cache_size", "base_manifest"),
    *("uri", "reconnect_s", "connections", "rbd_conf", "rbd_user", "backend", "backend_arg"),
}
"""Options that a clone cannot have, or has of the drive that it is a clone of."""


def add_parser(subparsers: Any) -> None:
    """Add it to what `add_subparsers` returned; `run` carries it out."""
    drive = subparsers.add_parser("drive", help="look at and change the drives of a running engine")
    drive.set_defaults(run=partial(print_help, drive))  # where no command is given
    commands = drive.add_subparsers(dest="drive_command", metavar="COMMAND")
    _add(commands, "list", "print a line for each drive of the engine", has_drive=False)
    _add(commands, "show", "print all that there is to say of a drive")
    add = _add(commands, "add", "begin a drive; its paths are of the folder that this is typed in")
    add_options(add, drive_option_fields())
    _add_settings(_add(commands, "set", "change settings of a drive that runs"))
    remove = _add(commands, "remove", "end a drive once what is in flight is done")
    remove.add_argument("--force", action="store_true", help="at once, requests in flight or not")
    _add(commands, "pause", "begin no more requests; done once none is in flight")
    _add(commands, "resume", "go on")
    resize = _add(commands, "resize", "make a drive and its image larger or smaller")
    resize.add_argument("size", metavar="SIZE", help="such as 20G, or image: what the image has now")
    _add_layer_commands(commands)
    _add_limits(_add(commands, "limit", "change the limits of a drive; those that are not named stay"))


def _add_layer_commands(commands: Any) -> None:
    snapshot = _add(commands, "snapshot", "keep a copy-on-write drive as it is now, by a name")
    snapshot.add_argument("name", metavar="NAME", help="what to call it")
    snapshot.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="DRIVE",
        help="another drive, at the same instant; may be given more than once",
    )
    _add(commands, "snapshots", "print a line for each snapshot of a drive")
    clone = _add(commands, "clone", "begin another drive on a snapshot of a copy-on-write drive")
    clone.add_argument("new", metavar="NEW", help="the new drive's name")
    clone.add_argument("--snapshot", required=True, metavar="NAME", help="the snapshot that it begins with")
    add_options(clone, clone_option_fields())
    reset = _add(commands, "reset", "have a copy-on-write drive be as it was")
    reset.add_argument("name", metavar="NAME", nargs="?", help="at this snapshot (default: as its base is)")
    reset.add_argument("--force", action="store_true", help="though a front end is connected")
    delete = _add(commands, "delete-snapshot", "have no such snapshot any more")
    delete.add_argument("name", metavar="NAME", help="what it is called")
    _add(commands, "commit", "have the newest snapshot be as the drive is now")
    _add(commands, "flatten", "have a copy-on-write drive need its base no more")
    changed = _add(commands, "changed", "print what has changed since a snapshot: lines of offset and length")
    changed.add_argument("--since", required=True, metavar="NAME", help="the snapshot")
    job = _add(commands, "job", "print what of a drive's layers is merged in the background")
    job.add_argument("--bps", metavar="SIZE", help="copy so many bytes a second at most; none: no limit")
    job.add_argument("--cancel", action="store_true", help="stop it")
    job.add_argument("--wait", action="store_true", help="until it is done, or has failed")


def clone_option_fields() -> list[FieldInfo]:
    """The options of a drive that `ringblk drive clone` takes."""
    return [field for field in drive_option_fields() if field.name not in _OF_OTHER_DRIVES]


def add_upgrade_parser(subparsers: Any) -> None:
    """Add `ringblk upgrade` to what `add_subparsers` returned."""
    parser = subparsers.add_parser(
        "upgrade",
        help="have a running engine go on as the version that is installed now",
        description="Have a running engine go on as the version that is installed now: its control plane,"
        " which no guest notices, and then the processes of each drive whose guest was served meanwhile,"
        " with a pause of some milliseconds. Stops at the first failure.",
    )
    parser.add_argument("--control", required=True, metavar="PATH", help="the engine's control socket")
    parser.add_argument(
        "--at-once", type=_positive, default=4, metavar="COUNT", help="drives at a time (default: 4)"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--control-plane-only", action="store_true", help="leave the drives' processes")
    only.add_argument("--drives-only", action="store_true", help="what an earlier upgrade has left")
    parser.set_defaults(run=_upgrade)


def _positive(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 64:
        raise ValueError(text)
    return count


def _upgrade(arguments: argparse.Namespace) -> int:
    from ringblk.engine.client.upgrade_command import run_upgrade

    return run_upgrade(arguments)


def _add(commands: Any, name: str, text: str, *, has_drive: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.add_argument("--control", required=True, metavar="PATH", help="the engine's control socket")
    if name not in ("add", "clone"):  # where it is the image's
        parser.add_argument(
            "--format",
            dest="output",
            choices=("human", "json"),
            default="human",
            help="for people, or as the engine says it",
        )
    parser.add_argument(
        "--json",
        dest="output",
        action="store_const",
        const="json",
        default="human",
        help="as the engine says it",
    )
    if has_drive:
        parser.add_argument("drive", metavar="DRIVE", help="its name")
    parser.set_defaults(run=_running(name))
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, metavar="COUNT", help="worker processes")
    parser.add_argument("--cache", metavar="MODE", help="writeback, writethrough or unsafe")
    parser.add_argument("--is-root-device", choices=("yes", "no"), help="whether the guest boots from it")
    parser.add_argument("--partuuid", metavar="TEXT", help="the partition that the guest boots from, or none")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    for name, text in limit_help().items():
        metavar = "SIZE" if name in BYTE_LIMITS else "COUNT"
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=f"{text}; none: no limit")
    parser.add_argument("--rate-limiter", metavar="JSON", help="the limits in Firecracker's form")
    parser.add_argument("--none", action="store_true", help="no limits but those that are given beside it")


def _running(name: str) -> Callable[[argparse.Namespace], int]:
    """What carries the command out; imported only then: not for --help."""

    def run(arguments: argparse.Namespace) -> int:
        from ringblk.engine.client.drive_command import COMMANDS

        return COMMANDS[name](arguments)

    return run
