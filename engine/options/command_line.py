"""The command line of the backend program, with the conventions' options and our own.

Conventions: QEMU, docs/interop/vhost-user.rst, "Backend program conventions".
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

from ringblk.engine.base.json_text import NotJson, decode_json
from ringblk.engine.base.number_text import parse_size
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.service_manager import HandedSocket
from ringblk.engine.base.version import VERSION
from ringblk.engine.options.config import EngineConfig, EngineOptions, FlatConfig, make_config
from ringblk.engine.options.config_file import DRIVES, list_config, read_config_file
from ringblk.engine.options.drive_config import BLOCK_SIZES, SIZE_OPTIONS, DriveConfig, option_of
from ringblk.engine.options.handed_sockets import place_sockets
from ringblk.engine.options.rate_limiter_config import BYTE_LIMITS, LIMIT_NAMES, limit_help
from ringblk.shm.state.segment import MAX_QUEUES, MAX_WORKERS
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.block.protocol import DRIVE_ID_BYTES

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_SIZE_OPTIONS = {*BYTE_LIMITS, *SIZE_OPTIONS}
_INTEGER_OPTIONS = (
    {"fd", "workers", "num_queues", "queue_size", "poll_us", "connections"} | {*LIMIT_NAMES}
) - _SIZE_OPTIONS

_REPEATED_OPTIONS = {
    "backend_arg": "KEY=VALUE",
    "sandbox_allow": "PATH",
    "translate_uid": "MAP",
    "translate_gid": "MAP",
}

_LOGICAL_SIZES, _PHYSICAL_SIZES = (f"{SECTOR_BYTES} to {most_bytes}" for most_bytes in BLOCK_SIZES.values())

_HELP = {
    "socket_path": "listen on this unix socket",
    "fd": "serve this inherited socket, connected or listening",
    "kind": "block: a disk; fs: a shared folder",
    "shared_dir": "share this folder with the guest; needs --kind fs, as the next twelve do",
    "file_system": "share what a class of your own has, package.module:Class, instead of a folder",
    "tag": "what the guest mounts the folder by",
    "guest_cache": "how long the guest goes by what it knows of the folder: auto, always, never, metadata",
    "xattr": "let the guest see and set extended attributes",
    "posix_acl": "let the guest see and set access control lists; needs --xattr",
    "allow_direct_io": "a guest's O_DIRECT goes past the host's page cache, too",
    "killpriv_v2": "take set-user-id from what is written to, so that the guest need not ask for it",
    "writeback": "let the guest gather what is written to files that nobody else changes",
    "translate_uid": "users that have other numbers in the guest, as virtiofsd has it; may be repeated",
    "translate_gid": "the same of groups; may be repeated",
    "dax": "map files into the guest's address space: never, inode: those of whole 2 MiB, always",
    "dax_window": "how large the place is where they are mapped, a power of two from 2M to 64G",
    "blk_file": "the image: a regular file or block device",
    "track_changes": "keep in this folder what has changed since a point, for backups (ringblk image point)",
    "base": "read from this image or URI what the overlay has not; any number of drives may have it",
    "base_snapshot": "where the base is the folder of another drive's overlay: which snapshot of it",
    "base_cache": "where --base is a URI: keep what is fetched in this folder, for all drives of the host",
    "base_cache_size": "bytes that all fetched bases may have there; those not used give way",
    "base_manifest": "digests of the pieces of such a base (ringblk image manifest): others are not served",
    "overlay": "keep what is written in this folder, made if it isn't there; needs --base, unless flattened",
    "overlay_size": "size of a new overlay in bytes (default: the base's)",
    "uri": "storage elsewhere: nbd[s]://HOST[:PORT]/EXPORT, nbd[s]+unix:///NAME?socket=PATH, rbd:POOL/IMAGE",
    "rbd_conf": "configuration file of the Ceph cluster of --uri=rbd:POOL/IMAGE",
    "rbd_user": "whom that cluster knows this as, without client. (default: admin)",
    "reconnect_s": "seconds without the server of --uri after which requests fail (default: they wait)",
    "connections": "connections to the server of --uri, where it allows several (default: 1)",
    "format": "raw: serve the image as it is; probe: not if it is in another format, qcow2 for one",
    "backend": "memory, null or package.module:Class instead of an image",
    "backend_arg": "key=value for the constructor of backend or file system; may be repeated",
    "read_only": "the guest may only read",
    "takeover": "have an engine that uses the image or the socket end, and go on in its place",
    "replace_image": "with --takeover: the engine at the socket may have another image; its guest gets this",
    "forget_changes": "begin with these options, whatever was set while an earlier engine of this drive ran",
    "workers": f"worker processes, 1 to {MAX_WORKERS}; none with --io-engine=sync",
    "num_queues": f"virtqueues offered, 1 to {MAX_QUEUES}",
    "queue_size": "queue size that requests are cut for (seg_max is two less)",
    "cache": "writeback: the guest flushes; unsafe: nobody does",
    "direct": "bypass the host's page cache: auto, on or off",
    "lock": "hold the image while queues run, always, or auto: until its guest moves away",
    "io_engine": "psync, io_uring: in workers; sync: in the dispatcher; io_uring_inline: both; auto: best",
    "poll_us": "how long to look for new work before sleeping; 0: not at all",
    **limit_help(),
    "rate_limiter": "the limits in Firecracker's form, as JSON",
    "rate_group": "share the limits with all engines that name this group",
    "user": "run as this user, or user:group, once everything is open; only as root",
    "cgroup": "have the drive's processes in this control group: a folder of cgroup v2, made before",
    "sandbox": "keep workers and dispatcher to what they need: on, off, or auto: as far as the kernel can",
    "sandbox_allow": "let a backend of your own open this file, or all below this folder; may be repeated",
    "control": "serve the control API (HTTP) on this unix socket",
    "log_format": "log lines for people (human) or as JSON objects (json)",
    "drive_id": f"what GET_ID gives, cut at {DRIVE_ID_BYTES} bytes",
    "is_root_device": "say in the control API that the guest boots from this drive",
    "partuuid": "say in the control API which partition the guest boots from",
    "logical_block_size": f"{_LOGICAL_SIZES} (default: {SECTOR_BYTES} for a file, a block device's own)",
    "physical_block_size": f"{_PHYSICAL_SIZES} (default: what direct I/O, file system or device prefer)",
}


class _HelpFormatter(argparse.HelpFormatter):
    """As wide as the terminal. argparse makes one for each option, and would import shutil for the width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_columns() - 2)


def _terminal_columns() -> int:
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size().columns) or 80
    except (OSError, ValueError):
        return 80


class OptionParser(argparse.ArgumentParser):
    """Raises `ProgramError` with one line instead of printing a usage text and exiting."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **settings)
        version = f"ringblk {VERSION}"
        self.add_argument(
            "--version", action="version", version=version, help="print the package's version and exit"
        )

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse says NoReturn
        """Called by argparse for a wrong command line."""
        raise ProgramError(message)

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        """argparse's own passes over what cannot be written."""
        (file or sys.stderr).write(message)


def print_help(parser: argparse.ArgumentParser, _: argparse.Namespace) -> int:
    """What a program of several commands does where none is given; the exit status."""
    parser.print_help()
    return 0


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field of an engine and its drive, and `--config`."""
    add_options(parser, option_fields())
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a JSON or TOML file with these options as keys, or with a list of drives",
    )


def add_options(
    parser: argparse.ArgumentParser, options: Sequence[FieldInfo], other_names: Mapping[str, str] = {}
) -> None:
    """One option for each of these fields; `other_names` are names that some have besides."""
    for field in options:
        names = [option_of(field.name), *filter(None, [other_names.get(field.name)])]
        if field.type is bool:
            parser.add_argument(*names, action="store_true", default=None, help=_HELP[field.name])
        elif field.name in _REPEATED_OPTIONS:
            metavar = _REPEATED_OPTIONS[field.name]
            parser.add_argument(*names, action="append", metavar=metavar, help=_HELP[field.name])
        else:
            default = "" if field.default in (None, msgspec.NODEFAULT) else f" (default: {field.default})"
            parser.add_argument(*names, metavar="VALUE", help=_HELP[field.name] + default)


def option_fields() -> list[FieldInfo]:
    """The fields of an engine and its drive, in the order of the help."""
    return _in_order(msgspec.structs.fields(FlatConfig))


def drive_option_fields() -> list[FieldInfo]:
    """Those of a drive that comes to an engine, which inherits nothing for it any more."""
    return _in_order(field for field in msgspec.structs.fields(DriveConfig) if field.name != "fd")


def _in_order(options: Iterable[FieldInfo]) -> list[FieldInfo]:
    places = {name: place for place, name in enumerate(_HELP)}
    return sorted(options, key=lambda field: places[field.name])


def config_from(arguments: argparse.Namespace, sockets: Sequence[HandedSocket] = ()) -> EngineConfig:
    """The engine's configuration; options stand over the file. Raises `ProgramError`.

    `sockets` are a service manager's, for drives that name none.
    """
    values = read_config_file(arguments.config) if arguments.config else {}
    given = given_values(arguments, option_fields())
    if DRIVES not in values:
        return make_config(place_sockets({**values, **given}, sockets))
    for name in given:
        if name not in EngineOptions.__struct_fields__:
            raise ProgramError(f"{option_of(name)}: {arguments.config} lists its drives: set it there")
    return list_config(arguments.config, place_sockets({**values, **given}, sockets))


def given_values(arguments: argparse.Namespace, options: Iterable[FieldInfo]) -> dict[str, object]:
    """What the command line sets of these fields. Raises `ProgramError`."""
    values: dict[str, object] = {}
    for field in options:
        value = getattr(arguments, field.name)
        if value is None:
            continue
        if field.name == "backend_arg":
            value = dict(_key_and_value(text) for text in value)
        elif field.name == "rate_limiter":
            value = _json("rate_limiter", value)
        elif field.name in _INTEGER_OPTIONS:
            value = _integer(field.name, value)
        elif field.name == "reconnect_s":
            value = _seconds(field.name, value)
        elif field.name in _SIZE_OPTIONS:
            value = _size(field.name, value)
        elif get_origin(field.type) is Literal and value not in get_args(field.type):
            choices = ", ".join(get_args(field.type))
            raise ProgramError(f"{option_of(field.name)}: {value} is none of {choices}")
        values[field.name] = value
    return values


def _integer(name: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ProgramError(f"{option_of(name)}: {text} is not a whole number") from None


def _seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ProgramError(f"{option_of(name)}: {text} is not a number of seconds") from None


def _size(name: str, text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ProgramError(f"{option_of(name)}: {error}") from None


def _json(name: str, text: str) -> object:
    try:
        return decode_json(text)
    except NotJson as error:
        raise ProgramError(f"{option_of(name)}: {error}") from None


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ProgramError(f"--backend-arg {text}: not of the form key=value")
    return key, value
