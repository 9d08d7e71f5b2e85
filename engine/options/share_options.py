"""The command line of the backend program for shared folders: virtiofsd's option names where it has them."""

import argparse
from collections.abc import Sequence
from typing import Any

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.service_manager import HandedSocket
from ringblk.engine.options.command_line import add_options, given_values, option_fields
from ringblk.engine.options.config import EngineConfig, make_config
from ringblk.engine.options.handed_sockets import place_sockets

_OF_BLOCKS = {
    *("track_changes", "base_snapshot", "uri", "rbd_conf", "rbd_user", "reconnect_s", "connections"),
    *("base_cache", "base_cache_size", "base_manifest"),
    *("kind", "blk_file", "format", "base", "overlay", "overlay_size", "backend", "cache"),
    *("direct", "lock", "drive_id", "is_root_device", "partuuid", "logical_block_size"),
    *("physical_block_size", "takeover", "replace_image", "forget_changes"),
}  # fmt: skip
"""Options of disks, which a shared folder has no use for."""
_OTHER_NAMES = {
    "backend_arg": "--file-system-arg",
    "guest_cache": "--cache",
    "read_only": "--readonly",
    "workers": "--thread-pool-size",
    "num_queues": "--num-request-queues",
}
"""What virtiofsd or QEMU calls an option of ours, or what it is of a file system."""


_REFUSED = {
    "--announce-submounts": "what is mounted below the folder is no part of it: share it as another folder",
    "--allow-mmap": "files can be mapped with --cache=auto and always",
    "--preserve-noatime": "leave it out: mount the folder's file system with noatime",
    "--security-label": "labels of a guest's own are not kept: use --xattr for those of the host",
    "--xattrmap": "attributes have the same names here and in the guest: use --xattr",
    "--uid-map": "there is no user namespace: use --translate-uid",
    "--gid-map": "there is no user namespace: use --translate-gid",
    "--modcaps": "the processes keep what requests need, and no more",
    "--socket-group": "give --user, or the socket's folder to the group",
    "--rlimit-nofile": "each process has at most 1024 inodes open, whatever the limit is",
    "--no-readdirplus": "leave it out: the guest asks for READDIRPLUS where it helps",
    "--seccomp": "use --sandbox=auto, on or off",
    "--syslog": "use a service manager, or --log-format=json",
    "--log-level": "use --log-format; there is one level",
}
"""Options of virtiofsd that are not ours, and what to do instead."""
_HANDLES = {"mandatory", "prefer"}
"""Of virtiofsd's --inode-file-handles: an inode is a handle here, or the folder is refused at the start."""


class _Refused(argparse.Action):
    """An option that nothing is made of."""

    def __call__(self, *arguments: Any) -> None:
        """Raise `ProgramError`, with the reason."""
        option = str(arguments[-1])
        raise ProgramError(f"{option}: {_REFUSED[option]}")


class _FileHandles(argparse.Action):
    """How inodes are kept."""

    def __call__(self, *arguments: Any) -> None:
        """Raise `ProgramError` for any other way than ours."""
        _, _, value, option = arguments
        if value not in _HANDLES:
            fault = (
                "an inode is a file handle here: leave it out" if value == "never" else "mandatory or prefer"
            )
            raise ProgramError(f"{option}={value}: {fault}")


def _add_options_of_virtiofsd(parser: argparse.ArgumentParser) -> None:
    for option in _REFUSED:
        parser.add_argument(option, action=_Refused, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--inode-file-handles", action=_FileHandles, help=argparse.SUPPRESS)


def add_share_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field that a shared folder has, some by two names."""
    options = [field for field in option_fields() if field.name not in _OF_BLOCKS]
    add_options(parser, options, _OTHER_NAMES)
    _add_options_of_virtiofsd(parser)


def share_config_from(arguments: argparse.Namespace, sockets: Sequence[HandedSocket] = ()) -> EngineConfig:
    """The configuration of an engine for one shared folder. Raises `ProgramError`."""
    fields = [field for field in option_fields() if field.name not in _OF_BLOCKS]
    if arguments.workers == "0":  # virtiofsd's default
        raise ProgramError("--thread-pool-size 0: use --io-engine=sync")
    return make_config(place_sockets({"kind": "fs", **given_values(arguments, fields)}, sockets))
