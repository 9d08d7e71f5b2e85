"""The parsers of both programs."""

import argparse
from functools import partial

from ringblk.engine.options.command_line import OptionParser, add_engine_options, print_help
from ringblk.engine.options.share_options import add_share_options

PROGRAM = "ringblk"
BACKEND_PROGRAM = "vhost-user-ringblk"
SHARE_PROGRAM = "vhost-user-ringblk-fs"
SERVE = "serve"
SERVE_SUMMARY = "serve a drive to a hypervisor (vhost-user)"


def make_serve_parser(program: str) -> OptionParser:
    """That of `vhost-user-ringblk` and `ringblk serve`."""
    parser = OptionParser(
        prog=program, description="Serve a virtio block device over vhost-user.", allow_abbrev=False
    )
    add_engine_options(parser)
    parser.add_argument("--print-capabilities", action="store_true", help="print what this program can do")
    return parser


def make_share_parser() -> OptionParser:
    """That of `vhost-user-ringblk-fs`."""
    parser = OptionParser(
        prog=SHARE_PROGRAM, description="Share a folder over vhost-user (virtio-fs).", allow_abbrev=False
    )
    add_share_options(parser)
    parser.add_argument("--print-capabilities", action="store_true", help="print what this program can do")
    return parser


def make_parser() -> argparse.ArgumentParser:
    """That of `ringblk`; `serve` is only named in it, and has one of its own."""
    from ringblk.engine.client import commands as client_commands
    from ringblk.engine.crashes import commands as crashes_commands
    from ringblk.engine.doctor import commands as doctor_commands
    from ringblk.engine.images import command as image_command
    from ringblk.engine.program import completion_command, schema_command
    from ringblk.engine.statistics import (
        commands as statistics_commands,  # not for a backend program that only serves
    )

    parser = OptionParser(prog=PROGRAM, description="A virtio block backend.")
    parser.set_defaults(run=partial(print_help, parser))  # where no command is given
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    subparsers.add_parser(SERVE, help=SERVE_SUMMARY)
    image_command.add_parser(subparsers)
    statistics_commands.add_parsers(subparsers)
    client_commands.add_parser(subparsers)
    client_commands.add_upgrade_parser(subparsers)
    doctor_commands.add_parser(subparsers)
    crashes_commands.add_parser(subparsers)
    schema_command.add_parser(subparsers)
    completion_command.add_parser(subparsers)
    return parser
