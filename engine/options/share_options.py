"""The command line of the backend program for shared folders: virtiofsd's option names where it has them."""

import argparse
from collections.abc import Sequence

from ringblk.engine.base.service_manager import HandedSocket
from ringblk.engine.options.command_line import add_options, given_values, option_fields
from ringblk.engine.options.config import EngineConfig, make_config
from ringblk.engine.options.handed_sockets import place_sockets

_OF_BLOCKS = {
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


def add_share_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field that a shared folder has, some by two names."""
    options = [field for field in option_fields() if field.name not in _OF_BLOCKS]
    add_options(parser, options, _OTHER_NAMES)


def share_config_from(arguments: argparse.Namespace, sockets: Sequence[HandedSocket] = ()) -> EngineConfig:
    """The configuration of an engine for one shared folder. Raises `ProgramError`."""
    fields = [field for field in option_fields() if field.name not in _OF_BLOCKS]
    return make_config(place_sockets({"kind": "fs", **given_values(arguments, fields)}, sockets))
